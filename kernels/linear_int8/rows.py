"""The two passes around the product: rows to bytes before it, scales and bias after it.

Each row is read twice while it lies in the cache: for its largest entry, and to be rounded.
"""

import numpy as np
import torch
from numba import carray

from thothy_kernels.linear_int8 import HIGHEST, LEAST_MAGNITUDE
from thothy_kernels.linear_int8.byte_lanes import (
    bytes_at,
    larger_magnitude,
    largest_magnitude,
    store_bytes,
    store_first_bytes,
)
from thothy_kernels.numba_simd import raw_memory, thread_pool, vec16
from thothy_kernels.numba_simd.functions import inlined, worker

# Elements that a thread should have before a second one is started: about 20 microseconds' work.
_LEAST_PER_THREAD = 1 << 17
_ELEMENTS_AT_ONCE = 1 << 14  # what a thread takes from the common pile
_COLUMNS_AT_ONCE = 1 << 13  # so that one row of a wide head is work for all threads

_ZERO, _ONE, _HIGHEST = np.float32(0.0), np.float32(1.0), np.float32(HIGHEST)
_LEAST, _INFINITY, _NAN = np.float32(LEAST_MAGNITUDE), np.float32(np.inf), np.float32(np.nan)


def quantize_rows(x: torch.Tensor, shift: int) -> tuple[torch.Tensor, torch.Tensor]:
    """x [T, K], contiguous, to q + shift, uint8 [T, K] (modulo 256), and s, float32 [T]."""
    T, K = x.shape
    q = torch.empty((T, K), dtype=torch.uint8)
    scale = torch.empty(T, dtype=torch.float32)
    addresses = (x.data_ptr(), q.data_ptr(), scale.data_ptr())
    args = np.array((0, T, K, shift, *addresses), dtype=np.int64)
    function = _quantize_float32 if x.dtype == torch.float32 else _quantize_bfloat16
    thread_pool.launch(function, args, thread_pool.num_threads_for(T * K, _LEAST_PER_THREAD))
    return q, scale


def scale_rows(
    products: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype
) -> torch.Tensor:
    """products [T, N], float32, times scale [T], plus bias [N], float32 or None; in `dtype`.

    In float32 in place: the result is `products`.
    """
    T, N = products.shape
    out = products if dtype == torch.float32 else torch.empty((T, N), dtype=dtype)
    bias_address = 0 if bias is None else bias.data_ptr()
    addresses = (products.data_ptr(), scale.data_ptr(), bias_address, out.data_ptr())
    args = np.array((0, T, N, *addresses), dtype=np.int64)
    function = _WORKERS[dtype, bias is not None]
    thread_pool.launch(function, args, thread_pool.num_threads_for(T * N, _LEAST_PER_THREAD))
    return out


@inlined
def _magnitude(x, start, K):  # type: ignore[no-untyped-def]
    whole = K // 16 * 16
    largest = vec16.spread(_ZERO)
    for i in range(start, start + whole, 16):
        largest = larger_magnitude(largest, vec16.load(x, i))
    if whole < K:
        largest = larger_magnitude(largest, vec16.load_first(x, start + whole, K - whole))
    return largest_magnitude(largest)


@inlined
def _round_row(x, q, start, K, factor, shift):  # type: ignore[no-untyped-def]
    # No product is beyond 127 by more than two roundings, so none needs to be cut off.
    whole, factors = K // 16 * 16, vec16.spread(factor)
    for i in range(start, start + whole, 16):
        store_bytes(q, i, vec16.multiply(vec16.load(x, i), factors), shift)
    if whole < K:
        i, rest = start + whole, K - whole
        part = vec16.multiply(vec16.load_first(x, i, rest), factors)
        store_first_bytes(q, i, part, shift, rest)


@inlined
def _quantize(args, x):  # type: ignore[no-untyped-def]
    T, K, shift = args[1], args[2], args[3]
    q = carray(bytes_at(args[5]), (T * K,))
    scale = raw_memory.float32_at(args[6], T)
    rows_at_once = max(1, _ELEMENTS_AT_ONCE // K)
    while True:
        first = raw_memory.fetch_add(args, 0, rows_at_once)
        if first >= T:
            return
        for row in range(first, min(first + rows_at_once, T)):
            magnitude = _magnitude(x, row * K, K)
            if magnitude >= _LEAST and magnitude < _INFINITY:
                scale[row] = magnitude / _HIGHEST
                _round_row(x, q, row * K, K, _HIGHEST / magnitude, shift)
            else:
                # Nothing, or no number: then the scale says so, and the bytes are 0.
                scale[row] = _ZERO if magnitude < _LEAST else _NAN
                q[row * K : (row + 1) * K] = np.uint8(shift)


@worker
def _quantize_float32(args):  # type: ignore[no-untyped-def]
    _quantize(args, raw_memory.float32_at(args[4], args[1] * args[2]))


@worker
def _quantize_bfloat16(args):  # type: ignore[no-untyped-def]
    _quantize(args, raw_memory.bfloat16_at(args[4], args[1] * args[2]))


@inlined
def _scaled(value, scale, bias, has_bias):  # type: ignore[no-untyped-def]
    value = vec16.multiply(value, scale)
    return vec16.add(value, bias) if has_bias else value


@inlined
def _scale(args, out, has_bias):  # type: ignore[no-untyped-def]
    T, N = args[1], args[2]
    products, scale = raw_memory.float32_at(args[3], T * N), raw_memory.float32_at(args[4], T)
    bias = raw_memory.float32_at(args[5], N) if has_bias else products
    width = min(N, _COLUMNS_AT_ONCE)
    parts = (N + width - 1) // width
    at_once = max(1, _ELEMENTS_AT_ONCE // width)
    while True:
        first = raw_memory.fetch_add(args, 0, at_once)
        if first >= T * parts:
            return
        for part in range(first, min(first + at_once, T * parts)):
            row, column = part // parts, part % parts * width
            scales, start = vec16.spread(scale[row]), row * N
            end = min(column + width, N)
            whole = column + (end - column) // 16 * 16
            for i in range(column, whole, 16):
                value, shift = vec16.load(products, start + i), vec16.load(bias, i)
                vec16.store(out, start + i, _scaled(value, scales, shift, has_bias))
            if whole < end:
                rest = end - whole
                value = vec16.load_first(products, start + whole, rest)
                shift = vec16.load_first(bias, whole, rest)
                value = _scaled(value, scales, shift, has_bias)
                vec16.store_first(out, start + whole, value, rest)


# A worker for each, not an argument read at run time: the choice then stands outside the loops.
@worker
def _scale_to_float32(args):  # type: ignore[no-untyped-def]
    _scale(args, raw_memory.float32_at(args[6], args[1] * args[2]), False)


@worker
def _scale_to_bfloat16(args):  # type: ignore[no-untyped-def]
    _scale(args, raw_memory.bfloat16_at(args[6], args[1] * args[2]), False)


@worker
def _scale_and_add_to_float32(args):  # type: ignore[no-untyped-def]
    _scale(args, raw_memory.float32_at(args[6], args[1] * args[2]), True)


@worker
def _scale_and_add_to_bfloat16(args):  # type: ignore[no-untyped-def]
    _scale(args, raw_memory.bfloat16_at(args[6], args[1] * args[2]), True)


_WORKERS = {
    (torch.float32, False): _scale_to_float32,
    (torch.bfloat16, False): _scale_to_bfloat16,
    (torch.float32, True): _scale_and_add_to_float32,
    (torch.bfloat16, True): _scale_and_add_to_bfloat16,
}
