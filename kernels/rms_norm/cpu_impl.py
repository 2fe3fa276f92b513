"""rms_norm and add_rms_norm: a pass over each row for the sum, and one for the result.

The sum of squares runs in 16 lanes, added at the end in a fixed order, so a row's bits depend on
nothing but the row.
"""

import math

import numpy as np
import torch

from thothy_kernels.numba_simd import raw_memory, thread_pool, vec16
from thothy_kernels.numba_simd.functions import inlined, worker

# Elements that a thread should have before a second one is started: about 20 microseconds' work.
_LEAST_PER_THREAD = 1 << 18


def rms_norm(
    x: torch.Tensor, weight: torch.Tensor, eps: float, weight_offset: float
) -> torch.Tensor:
    x, weight = x.contiguous(), weight.contiguous()
    out = torch.empty_like(x)
    worker = _float32_rows if x.dtype == torch.float32 else _bfloat16_rows
    _launch(worker, (x, weight, out), eps, weight_offset)
    return out


def add_rms_norm(
    x: torch.Tensor, delta: torch.Tensor, weight: torch.Tensor, eps: float, weight_offset: float
) -> tuple[torch.Tensor, torch.Tensor]:
    x, delta, weight = x.contiguous(), delta.contiguous(), weight.contiguous()
    total, out = torch.empty_like(x), torch.empty_like(x)
    worker = _float32_sums if x.dtype == torch.float32 else _bfloat16_sums
    _launch(worker, (x, weight, out, delta, total), eps, weight_offset)
    return total, out


def _launch(
    function: int, tensors: tuple[torch.Tensor, ...], eps: float, weight_offset: float
) -> None:
    x = tensors[0]
    N = x.shape[-1]
    T = x.numel() // N if N else 0
    numbers = (thread_pool.float_bits(eps), thread_pool.float_bits(weight_offset))
    addresses = (tensor.data_ptr() for tensor in tensors)
    args = np.array((0, T, N, *numbers, *addresses), dtype=np.int64)
    thread_pool.launch(function, args, thread_pool.num_threads_for(T * N, _LEAST_PER_THREAD))


@inlined
def _norm_rows(args, x, weight, out, delta, total, adds):  # type: ignore[no-untyped-def]
    T, N, eps = args[1], args[2], raw_memory.float32_of_bits(args[3])
    offset = raw_memory.float32_of_bits(args[4])
    rows_at_once = max(1, 16384 // N)
    while True:
        first = raw_memory.fetch_add(args, 0, rows_at_once)
        if first >= T:
            return
        for row in range(first, min(first + rows_at_once, T)):
            if adds:
                # The row is still in the cache when it is summed and scaled.
                _add_row(x, delta, total, row * N, N)
            inverse = inverse_root(total, row * N, N, eps)
            scale_row(total, row * N, weight, out, row * N, N, inverse, offset)


@inlined
def _add_row(x, delta, total, start, N):  # type: ignore[no-untyped-def]
    whole = N // 16 * 16
    for i in range(start, start + whole, 16):
        vec16.store(total, i, vec16.add(vec16.load(x, i), vec16.load(delta, i)))
    if whole < N:
        i, rest = start + whole, N - whole
        added = vec16.add(vec16.load_first(x, i, rest), vec16.load_first(delta, i, rest))
        vec16.store_first(total, i, added, rest)


@inlined
def inverse_root(x, start, N, eps):  # type: ignore[no-untyped-def]
    """1 / sqrt(mean of the squares of x[start : start + N] + eps)."""
    whole = N // 16 * 16
    squares = vec16.spread(np.float32(0.0))
    for i in range(0, whole, 16):
        part = vec16.load(x, start + i)
        squares = vec16.multiply_add(part, part, squares)
    if whole < N:
        part = vec16.load_first(x, start + whole, N - whole)
        squares = vec16.multiply_add(part, part, squares)
    mean = vec16.total(squares) / np.float32(N)
    return np.float32(1.0) / np.float32(math.sqrt(mean + eps))


@inlined
def scale_row(x, start, weight, out, to, N, inverse, offset):  # type: ignore[no-untyped-def]
    """out[to : to + N] = x[start : start + N] * inverse * (weight + offset)."""
    whole, scale, shift = N // 16 * 16, vec16.spread(inverse), vec16.spread(offset)
    for i in range(0, whole, 16):
        normed = vec16.multiply(vec16.load(x, start + i), scale)
        if offset == 0.0:
            # Parked in `out` for its rounding to the dtype, before the weight is applied.
            vec16.store(out, to + i, normed)
            normed = vec16.load(out, to + i)
        factor = vec16.add(vec16.load(weight, i), shift)
        vec16.store(out, to + i, vec16.multiply(normed, factor))
    if whole < N:
        rest = N - whole
        normed = vec16.multiply(vec16.load_first(x, start + whole, rest), scale)
        if offset == 0.0:
            vec16.store_first(out, to + whole, normed, rest)
            normed = vec16.load_first(out, to + whole, rest)
        factor = vec16.add(vec16.load_first(weight, whole, rest), shift)
        vec16.store_first(out, to + whole, vec16.multiply(normed, factor), rest)


@inlined
def _float32_norm(args, adds):  # type: ignore[no-untyped-def]
    size = args[1] * args[2]
    x, out = raw_memory.float32_at(args[5], size), raw_memory.float32_at(args[7], size)
    weight = raw_memory.float32_at(args[6], args[2])
    delta = raw_memory.float32_at(args[8], size) if adds else x
    total = raw_memory.float32_at(args[9], size) if adds else x
    _norm_rows(args, x, weight, out, delta, total, adds)


@inlined
def _bfloat16_norm(args, adds):  # type: ignore[no-untyped-def]
    size = args[1] * args[2]
    x, out = raw_memory.bfloat16_at(args[5], size), raw_memory.bfloat16_at(args[7], size)
    weight = raw_memory.bfloat16_at(args[6], args[2])
    delta = raw_memory.bfloat16_at(args[8], size) if adds else x
    total = raw_memory.bfloat16_at(args[9], size) if adds else x
    _norm_rows(args, x, weight, out, delta, total, adds)


# A worker for each, not an argument read at run time: the choice then stands outside the loops.
@worker
def _float32_rows(args):  # type: ignore[no-untyped-def]
    _float32_norm(args, False)


@worker
def _bfloat16_rows(args):  # type: ignore[no-untyped-def]
    _bfloat16_norm(args, False)


@worker
def _float32_sums(args):  # type: ignore[no-untyped-def]
    _float32_norm(args, True)


@worker
def _bfloat16_sums(args):  # type: ignore[no-untyped-def]
    _bfloat16_norm(args, True)
