"""Norm of one row in SIMD vectors, shared by the CPU kernels of rms_norm and rope_and_write.

The sum of squares runs in 16 lanes, reduced at the end in a fixed order, so a row's bits depend on
nothing but the row.
"""

import math

import numpy as np

from thothy_kernels.numba_simd import vec16
from thothy_kernels.numba_simd.functions import inlined


@inlined
def inverse_root(x, start, N, eps):  # type: ignore[no-untyped-def]
    """1 / sqrt(mean of the squares of x[start : start + N] + eps)."""
    whole = N // 16 * 16
    squares = vec16.broadcast(np.float32(0.0))
    for i in range(0, whole, 16):
        part = vec16.load(x, start + i)
        squares = vec16.fma(part, part, squares)
    if whole < N:
        part = vec16.load_first(x, start + whole, N - whole)
        squares = vec16.fma(part, part, squares)
    mean = vec16.reduce_add(squares) / np.float32(N)
    return np.float32(1.0) / np.float32(math.sqrt(mean + eps))


@inlined
def scale_row(x, start, weight, out, to, N, inverse, offset):  # type: ignore[no-untyped-def]
    """out[to : to + N] = x[start : start + N] * inverse * (weight + offset)."""
    whole, scale, shift = N // 16 * 16, vec16.broadcast(inverse), vec16.broadcast(offset)
    for i in range(0, whole, 16):
        normed = vec16.multiply(vec16.load(x, start + i), scale)
        if offset == 0.0:
            # Stored and loaded to round it to the dtype before the weight is applied.
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
