"""bfloat16 products on processors that have instructions for float32 alone.

oneDNN has no fast way there (measured on Intel Cascade Lake, 2 cores: 51 GFLOP/s against 256 in
float32; this one: 200 to 224 from 128 rows on, and 8 rows in 0.6 of the time of float32). Weights
stay in bfloat16, so a step of few rows reads half of what float32 would, and become float32 in
registers; rows become float32 once per product, in an order that a tile reads straight through.
Sums are float32, rounded to bfloat16 once, with the bias.
"""

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
from thothy_kernels.numba_simd.functions import inlined, worker

_VECTOR = vec16.NUM_LANES
# Rows that meet one panel of weights after another, and stay in the caches meanwhile. Measured at K
# 1024 to 3072, 512 and 2048 rows: 64 to 96 take 1.1 times as long, 256 the same.
_ROWS_AT_ONCE = 192
# Products of a thread, those of rows that fill a tile up among them: 10 to 20 microseconds' work.
_LEAST_PRODUCTS = 1 << 20
_LEAST_ELEMENTS = 1 << 16  # of rows to widen, likewise


class Widened:
    """A weight [N, K], bfloat16, in panels of TILE_OUTPUTS outputs and pairs along K."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self._num_outputs, self._num_inputs = weight.shape
        self._panels = _in_panels(weight)
        self._bias = weight.new_zeros(weight.shape[0]) if bias is None else bias.contiguous()

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        T, N, K = x.shape[0], self._num_outputs, self._num_inputs
        columns = _in_columns(x.contiguous())
        out = x.new_empty((T, N))
        tensors = (columns, self._panels, self._bias, out)
        addresses = (tensor.data_ptr() for tensor in tensors)
        args = np.array((0, T, N, K, *addresses), dtype=np.int64)
        num_threads = thread_pool.num_threads_for(columns.numel() * N, _LEAST_PRODUCTS)
        thread_pool.launch(_multiply, args, num_threads)
        return out


def _in_panels(weight: torch.Tensor) -> torch.Tensor:
    """[N, K] to words of two bfloat16 [panels, pairs, TILE_OUTPUTS], 0 for what is not there."""
    N, K = weight.shape
    # Not contiguous() alone: words of 32 bits cannot begin at an odd place.
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
    """x [T, K] to float32 [strips, K, TILE_ROWS], K to the next even number; the last row stands
    for those that the last strip lacks."""
    T, K = x.shape
    columns = torch.empty((-(-T // TILE_ROWS), K + K % 2, TILE_ROWS), dtype=torch.float32)
    args = np.array((0, T, K, x.data_ptr(), columns.data_ptr()), dtype=np.int64)
    thread_pool.launch(_widen, args, thread_pool.num_threads_for(T * K, _LEAST_ELEMENTS))
    return columns


@worker
def _widen(args):  # type: ignore[no-untyped-def]
    T, K = args[1], args[2]
    num_strips, height = (T + TILE_ROWS - 1) // TILE_ROWS, K + K % 2
    x = raw_memory.bfloat16_at(args[3], T * K)
    columns = raw_memory.float32_at(args[4], num_strips * height * TILE_ROWS)
    whole = K // _VECTOR * _VECTOR
    while True:
        strip = raw_memory.fetch_add(args, 0, 1)
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
    """A tile's sums and the bias, to the part of it that lies in out [T, N]."""
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
    T, N, K = args[1], args[2], args[3]
    num_panels, num_pairs = (N + TILE_OUTPUTS - 1) // TILE_OUTPUTS, (K + 1) // 2
    x_size, w_size = 2 * num_pairs * TILE_ROWS, num_pairs * TILE_OUTPUTS
    x = raw_memory.float32_at(args[4], (T + TILE_ROWS - 1) // TILE_ROWS * x_size)
    w = raw_memory.int32_at(args[5], num_panels * w_size)
    bias, out = raw_memory.bfloat16_at(args[6], N), raw_memory.bfloat16_at(args[7], T * N)
    sums = np.empty(TILE_ROWS * TILE_OUTPUTS, np.float32)
    num_parts = (T + _ROWS_AT_ONCE - 1) // _ROWS_AT_ONCE * num_panels
    while True:
        part = raw_memory.fetch_add(args, 0, 1)
        if part >= num_parts:
            return
        panel, first = part % num_panels, part // num_panels * _ROWS_AT_ONCE
        for row in range(first, min(first + _ROWS_AT_ONCE, T), TILE_ROWS):
            multiply_tile(x, row // TILE_ROWS * x_size, w, panel * w_size, num_pairs, sums)
            _finish(sums, bias, out, row, panel * TILE_OUTPUTS, T, N)
