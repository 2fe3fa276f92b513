"""bfloat16 products on processors without bfloat16 instructions.

oneDNN is slow there (measured on Intel Cascade Lake, 2 cores: 51 GFLOP/s against 256 in float32;
this kernel reaches 200 to 224 from 128 rows on, and takes 0.6 of the time of float32 for 8 rows).
Weights stay in bfloat16, so a step of few rows reads half the bytes, and are converted to float32
in registers. Rows are converted to float32 once per product, in the order that a tile reads them.
Sums are float32 and are rounded to bfloat16 once, after the bias is added.
"""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from thothy_kernels.linear.register_tile import (
    TILE_OUTPUTS,
    TILE_ROWS,
    TILE_VECTORS,
    multiply_tile,
    store_columns,
)
from thothy_kernels.numba_simd import raw_memory, thread_pool, vec16
from thothy_kernels.numba_simd.arguments import indices_of, pack
from thothy_kernels.numba_simd.functions import Compiled, inlined, worker

_VECTOR = vec16.NUM_LANES
# Rows that stay in the caches while all panels of weights multiply them. Measured at K 1024 to 3072
# with 512 and 2048 rows: 64 to 96 take 1.1 times as long, 256 the same.
_ROWS_AT_ONCE = 192
# Products per thread, padding rows included: 10 to 20 microseconds' work.
_LEAST_PRODUCTS = 1 << 20
_LEAST_ELEMENTS = 1 << 16  # elements to convert per thread, likewise


class _Convert(NamedTuple):
    next_strip: int  # counter shared by the threads
    T: int
    K: int
    x: int  # address of bfloat16 [T, K]
    columns: int  # address of float32 [strips, K to the next even number, TILE_ROWS]


class _Multiply(NamedTuple):
    next_part: int  # counter shared by the threads
    T: int
    N: int
    K: int
    columns: int  # address of float32 [strips, K to the next even number, TILE_ROWS]
    panels: int  # address of int32 [panels, pairs, TILE_OUTPUTS]
    bias: int  # address of bfloat16 [N]
    out: int  # address of bfloat16 [T, N]


_C, _M = indices_of(_Convert), indices_of(_Multiply)


class Bf16Fallback:
    """Product with a weight [N, K], bfloat16, packed in panels of TILE_OUTPUTS outputs."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self._num_outputs, self._num_inputs = weight.shape
        self._panels = _in_panels(weight)
        self._bias = weight.new_zeros(weight.shape[0]) if bias is None else bias.contiguous()

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        T, N, K = x.shape[0], self._num_outputs, self._num_inputs
        columns = _in_columns(x.contiguous())
        out = x.new_empty((T, N))
        arguments = _Multiply(
            next_part=0,
            T=T,
            N=N,
            K=K,
            columns=columns.data_ptr(),
            panels=self._panels.data_ptr(),
            bias=self._bias.data_ptr(),
            out=out.data_ptr(),
        )
        num_threads = thread_pool.num_threads_for(columns.numel() * N, _LEAST_PRODUCTS)
        thread_pool.launch(_multiply, pack(arguments), num_threads)
        return out


def _in_panels(weight: torch.Tensor) -> torch.Tensor:
    """weight [N, K] as int32 pairs of bfloat16 [panels, pairs, TILE_OUTPUTS], padded with 0."""
    N, K = weight.shape
    # contiguous() is not enough: a 32-bit word cannot begin at an odd element.
    aligned = weight.is_contiguous() and weight.storage_offset() % 2 == 0
    even = weight if aligned and N > 1 else weight.clone(memory_format=torch.contiguous_format)
    pairs = (F.pad(even, (0, 1)) if K % 2 else even).view(torch.int32)
    panels = pairs.new_zeros((-(-N // TILE_OUTPUTS), pairs.shape[1], TILE_OUTPUTS))
    whole = N // TILE_OUTPUTS
    by_output = panels.transpose(1, 2)
    by_output[:whole] = pairs[: whole * TILE_OUTPUTS].unflatten(0, (whole, TILE_OUTPUTS))
    by_output[whole:, : N - whole * TILE_OUTPUTS] = pairs[whole * TILE_OUTPUTS :]
    return panels


def _in_columns(x: torch.Tensor) -> torch.Tensor:
    """x [T, K] as float32 [strips, K to the next even number, TILE_ROWS]; the last strip repeats
    its last row."""
    T, K = x.shape
    columns = torch.empty((-(-T // TILE_ROWS), K + K % 2, TILE_ROWS), dtype=torch.float32)
    arguments = _Convert(next_strip=0, T=T, K=K, x=x.data_ptr(), columns=columns.data_ptr())
    num_threads = thread_pool.num_threads_for(T * K, _LEAST_ELEMENTS)
    thread_pool.launch(_convert, pack(arguments), num_threads)
    return columns


@worker
def _convert(args):  # type: ignore[no-untyped-def]
    T, K = args[_C.T], args[_C.K]
    num_strips, height = (T + TILE_ROWS - 1) // TILE_ROWS, K + K % 2
    x = raw_memory.bfloat16_at(args[_C.x], T * K)
    columns = raw_memory.float32_at(args[_C.columns], num_strips * height * TILE_ROWS)
    whole = K // _VECTOR * _VECTOR
    while True:
        strip = raw_memory.fetch_add(args, _C.next_strip, 1)
        if strip >= num_strips:
            return
        start, to = strip * TILE_ROWS * K, strip * height * TILE_ROWS
        last = min(TILE_ROWS, T - strip * TILE_ROWS) - 1
        for k in range(0, whole, _VECTOR):
            store_columns(x, start + k, K, last, columns, to + k * TILE_ROWS)
        for k in range(whole, height):
            for row in range(TILE_ROWS):
                value = np.float32(0.0)
                if k < K:
                    value = vec16.element(x, start + min(row, last) * K + k)
                columns[to + k * TILE_ROWS + row] = value


@inlined
def _finish(sums, bias, out, row, column, T, N):  # type: ignore[no-untyped-def]
    """Write a tile's sums plus the bias to the part of it that is inside out [T, N]."""
    for i in range(min(TILE_ROWS, T - row)):
        for vector in range(TILE_VECTORS):
            n = column + vector * _VECTOR
            value = vec16.load(sums, i * TILE_OUTPUTS + vector * _VECTOR)
            to = (row + i) * N + n
            if n + _VECTOR <= N:
                vec16.store(out, to, vec16.add(value, vec16.load(bias, n)))
            elif n < N:
                rest = N - n
                value = vec16.add(value, vec16.load_first(bias, n, rest))
                vec16.store_first(out, to, value, rest)


@worker
def _multiply(args):  # type: ignore[no-untyped-def]
    T, N, K = args[_M.T], args[_M.N], args[_M.K]
    num_panels, num_pairs = (N + TILE_OUTPUTS - 1) // TILE_OUTPUTS, (K + 1) // 2
    x_size, w_size = 2 * num_pairs * TILE_ROWS, num_pairs * TILE_OUTPUTS
    x = raw_memory.float32_at(args[_M.columns], (T + TILE_ROWS - 1) // TILE_ROWS * x_size)
    w = raw_memory.int32_at(args[_M.panels], num_panels * w_size)
    bias = raw_memory.bfloat16_at(args[_M.bias], N)
    out = raw_memory.bfloat16_at(args[_M.out], T * N)
    sums = np.empty(TILE_ROWS * TILE_OUTPUTS, np.float32)
    num_parts = (T + _ROWS_AT_ONCE - 1) // _ROWS_AT_ONCE * num_panels
    while True:
        part = raw_memory.fetch_add(args, _M.next_part, 1)
        if part >= num_parts:
            return
        panel, first = part % num_panels, part // num_panels * _ROWS_AT_ONCE
        for row in range(first, min(first + _ROWS_AT_ONCE, T), TILE_ROWS):
            multiply_tile(x, row // TILE_ROWS * x_size, w, panel * w_size, num_pairs, sums)
            _finish(sums, bias, out, row, panel * TILE_OUTPUTS, T, N)


KERNELS: tuple[Compiled, ...] = (_convert, _multiply)
