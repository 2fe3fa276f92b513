"""The two passes around an 8-bit product: rows to bytes before it, scales and bias after it.

Quantisation reads each row twice while it is in the cache: for its largest entry, and to round it.
"""

from typing import NamedTuple

import numpy as np
import torch
from numba import carray

from thothy_kernels.linear_int8 import HIGHEST, LEAST_MAGNITUDE
from thothy_kernels.linear_int8.vec16_bytes import (
    bytes_at,
    larger_magnitude,
    largest_magnitude,
    store_bytes,
    store_first_bytes,
)
from thothy_kernels.numba_simd import raw_memory, thread_pool, vec16
from thothy_kernels.numba_simd.arguments import indices_of, pack
from thothy_kernels.numba_simd.functions import Compiled, inlined, worker

# Elements that a thread should have before a second one is started: about 20 microseconds' work.
_LEAST_PER_THREAD = 1 << 17
_ELEMENTS_AT_ONCE = 1 << 14  # elements that a thread claims at a time
_COLUMNS_AT_ONCE = 1 << 13  # small enough that all threads share one row of a wide LM head

_ZERO, _HIGHEST = np.float32(0.0), np.float32(HIGHEST)
_LEAST, _INFINITY, _NAN = np.float32(LEAST_MAGNITUDE), np.float32(np.inf), np.float32(np.nan)


class _Quantize(NamedTuple):
    next_row: int  # counter shared by the threads
    T: int
    K: int
    shift: int  # added to each whole number
    x: int  # address of [T, K]
    q: int  # address of uint8 [T, K]
    scale: int  # address of float32 [T]


class _Scale(NamedTuple):
    next_part: int  # counter shared by the threads
    T: int
    N: int
    products: int  # address of float32 [T, N]
    scale: int  # address of float32 [T]
    bias: int  # address of float32 [N]; 0 without a bias
    out: int  # address of [T, N]; may be `products`


_Q, _S = indices_of(_Quantize), indices_of(_Scale)


def quantize_rows(x: torch.Tensor, shift: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantise x [T, K], contiguous: q + shift, uint8 [T, K] (modulo 256), and s, float32 [T]."""
    T, K = x.shape
    q = torch.empty((T, K), dtype=torch.uint8)
    scale = torch.empty(T, dtype=torch.float32)
    arguments = _Quantize(
        next_row=0,
        T=T,
        K=K,
        shift=shift,
        x=x.data_ptr(),
        q=q.data_ptr(),
        scale=scale.data_ptr(),
    )
    function = _quantize_float32 if x.dtype == torch.float32 else _quantize_bfloat16
    num_threads = thread_pool.num_threads_for(T * K, _LEAST_PER_THREAD)
    thread_pool.launch(function, pack(arguments), num_threads)
    return q, scale


def scale_rows(
    products: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype
) -> torch.Tensor:
    """products [T, N] times scale [T] plus bias [N], all float32 (bias may be None), in `dtype`.

    float32 results overwrite `products`.
    """
    T, N = products.shape
    out = products if dtype == torch.float32 else torch.empty((T, N), dtype=dtype)
    arguments = _Scale(
        next_part=0,
        T=T,
        N=N,
        products=products.data_ptr(),
        scale=scale.data_ptr(),
        bias=0 if bias is None else bias.data_ptr(),
        out=out.data_ptr(),
    )
    function = _WORKERS[dtype, bias is not None]
    num_threads = thread_pool.num_threads_for(T * N, _LEAST_PER_THREAD)
    thread_pool.launch(function, pack(arguments), num_threads)
    return out


@inlined
def _magnitude(x, start, K):  # type: ignore[no-untyped-def]
    """The largest |x| of a row; NaN if it holds one."""
    whole = K // 16 * 16
    largest = vec16.broadcast(_ZERO)
    for i in range(start, start + whole, 16):
        largest = larger_magnitude(largest, vec16.load(x, i))
    if whole < K:
        largest = larger_magnitude(largest, vec16.load_first(x, start + whole, K - whole))
    return largest_magnitude(largest)


@inlined
def _round_row(x, q, start, K, factor, shift):  # type: ignore[no-untyped-def]
    """q = round(x * factor) + shift for a row."""
    # Two roundings never carry a product past 127.5, so no clamp is needed.
    whole, factors = K // 16 * 16, vec16.broadcast(factor)
    for i in range(start, start + whole, 16):
        store_bytes(q, i, vec16.multiply(vec16.load(x, i), factors), shift)
    if whole < K:
        i, rest = start + whole, K - whole
        part = vec16.multiply(vec16.load_first(x, i, rest), factors)
        store_first_bytes(q, i, part, shift, rest)


@inlined
def _quantize(args, x):  # type: ignore[no-untyped-def]
    T, K, shift = args[_Q.T], args[_Q.K], args[_Q.shift]
    q = carray(bytes_at(args[_Q.q]), (T * K,))
    scale = raw_memory.float32_at(args[_Q.scale], T)
    rows_at_once = max(1, _ELEMENTS_AT_ONCE // K)
    while True:
        first = raw_memory.fetch_add(args, _Q.next_row, rows_at_once)
        if first >= T:
            return
        for row in range(first, min(first + rows_at_once, T)):
            magnitude = _magnitude(x, row * K, K)
            if magnitude >= _LEAST and magnitude < _INFINITY:
                scale[row] = magnitude / _HIGHEST
                _round_row(x, q, row * K, K, _HIGHEST / magnitude, shift)
            else:
                # A row that counts as 0, or holds an infinity or NaN: its bytes are 0.
                scale[row] = _ZERO if magnitude < _LEAST else _NAN
                q[row * K : (row + 1) * K] = np.uint8(shift)


@worker
def _quantize_float32(args):  # type: ignore[no-untyped-def]
    _quantize(args, raw_memory.float32_at(args[_Q.x], args[_Q.T] * args[_Q.K]))


@worker
def _quantize_bfloat16(args):  # type: ignore[no-untyped-def]
    _quantize(args, raw_memory.bfloat16_at(args[_Q.x], args[_Q.T] * args[_Q.K]))


@inlined
def _scaled(value, scale, bias, has_bias):  # type: ignore[no-untyped-def]
    value = vec16.multiply(value, scale)
    return vec16.add(value, bias) if has_bias else value


@inlined
def _scale(args, out, has_bias):  # type: ignore[no-untyped-def]
    T, N = args[_S.T], args[_S.N]
    products = raw_memory.float32_at(args[_S.products], T * N)
    scale = raw_memory.float32_at(args[_S.scale], T)
    bias = raw_memory.float32_at(args[_S.bias], N) if has_bias else products
    width = min(N, _COLUMNS_AT_ONCE)
    parts = (N + width - 1) // width
    at_once = max(1, _ELEMENTS_AT_ONCE // width)
    while True:
        first = raw_memory.fetch_add(args, _S.next_part, at_once)
        if first >= T * parts:
            return
        for part in range(first, min(first + at_once, T * parts)):
            row, column = part // parts, part % parts * width
            scales, start = vec16.broadcast(scale[row]), row * N
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


# One worker per case, so that no loop tests a flag.
@worker
def _scale_to_float32(args):  # type: ignore[no-untyped-def]
    _scale(args, raw_memory.float32_at(args[_S.out], args[_S.T] * args[_S.N]), False)


@worker
def _scale_to_bfloat16(args):  # type: ignore[no-untyped-def]
    _scale(args, raw_memory.bfloat16_at(args[_S.out], args[_S.T] * args[_S.N]), False)


@worker
def _scale_and_add_to_float32(args):  # type: ignore[no-untyped-def]
    _scale(args, raw_memory.float32_at(args[_S.out], args[_S.T] * args[_S.N]), True)


@worker
def _scale_and_add_to_bfloat16(args):  # type: ignore[no-untyped-def]
    _scale(args, raw_memory.bfloat16_at(args[_S.out], args[_S.T] * args[_S.N]), True)


_WORKERS = {
    (torch.float32, False): _scale_to_float32,
    (torch.bfloat16, False): _scale_to_bfloat16,
    (torch.float32, True): _scale_and_add_to_float32,
    (torch.bfloat16, True): _scale_and_add_to_bfloat16,
}


def pass_kernels(dtype: torch.dtype, has_bias: bool) -> tuple[Compiled, ...]:
    """The kernels of both passes for activations and weights of a dtype. Results are of that dtype
    and, in an LM head, which has no bias, float32."""
    quantize = _quantize_float32 if dtype == torch.float32 else _quantize_bfloat16
    cases = {(dtype, False), (torch.float32, False)} | ({(dtype, True)} if has_bias else set())
    return quantize, *(_WORKERS[case] for case in _WORKERS if case in cases)
