"""bfloat16 scores and weighted values of single queries by dot products (vdpbf16ps), without AMX.

A transposition does not pay off for so few rows: keys and values are read once, in place, in pieces
of 16. Scores are dot products of pairs, summed in lanes; weights stay float32, and each value is
converted to float32 as it is loaded.
"""

import numpy as np

from thothy_kernels.numba_simd import bf16_pairs, microkernels, raw_memory, vec16
from thothy_kernels.numba_simd.functions import inlined
from thothy_kernels.paged_attention import SPAN

MAX_ROWS = 4
_ZERO = np.float32(0.0)


@inlined
def load_queries(q, queries, first_row, num_rows, head, D, stride):  # type: ignore[no-untyped-def]
    """queries[row] = q unchanged, both as int32 pairs. The rows are the heads of one query."""
    to = raw_memory.int32_at(queries.ctypes.data, len(queries))
    source = (first_row * stride + head * num_rows * D) // 2
    for i in range(num_rows * D // 2):
        to[i] = q[source + i]


@inlined
def score(k_cache, scratch, first, end, ahead, num_rows, D, scale):  # type: ignore[no-untyped-def]
    """weights[row, key] = scale * query . key for keys `first` .. `end`, whole pieces of 16.

    ahead: addresses to prefetch meanwhile, one for each piece.
    """
    queries = raw_memory.bfloat16_at(scratch.queries.ctypes.data, 2 * len(scratch.queries))
    square, weights, factor = scratch.square, scratch.weights, vec16.broadcast(scale)
    for first_key in range(first, end, 16):
        start, fetched = scratch.starts[first_key // 16], ahead[first_key // 16]
        for row in range(num_rows):
            for key in range(16):
                total = vec16.broadcast(_ZERO)
                for d in range(0, D, 32):
                    if row == 0:
                        microkernels.prefetch(fetched + 2 * (key * D + d))
                    at = start + key * D + d
                    total = bf16_pairs.add_products(total, k_cache, at, queries, row * D + d)
                vec16.store(square, 16 * key, total)
            scores = vec16.multiply(microkernels.sum_rows(square), factor)
            vec16.store(weights, row * SPAN + first_key, scores)


@inlined
def accumulate_values(v_cache, scratch, begin, end, ahead, num_rows, D):  # type: ignore[no-untyped-def]
    """part[row] = sum of weights[row, key] * value[key] over keys `begin` .. `end`."""
    weights, part = scratch.weights, scratch.part
    for i in range(0, (num_rows + 1) // 2 * 2 * D, 16):
        vec16.store(part, i, vec16.broadcast(_ZERO))
    key = begin
    while key < end:
        piece, offset = key // 16, key % 16
        count = min(16 - offset, end - key)
        start = scratch.starts[piece] + offset * D
        for byte in range(0, 32 * D, 64):
            microkernels.prefetch(ahead[piece] + byte)
        for d in range(0, D, 64):
            _add(weights, key, v_cache, start + d, part, d, count, num_rows, D)
        key += count


@inlined
def _add(weights, key, v_cache, start, part, d, count, num_rows, D):  # type: ignore[no-untyped-def]
    """part += 64 columns of up to 16 values. Three rows compute a fourth from unused weights."""
    if num_rows == 1:
        microkernels.accumulate_bfloat16_1x4(
            weights, key, SPAN, v_cache, start, D, part, d, D, count
        )
    elif num_rows == 2:
        microkernels.accumulate_bfloat16_2x4(
            weights, key, SPAN, v_cache, start, D, part, d, D, count
        )
    else:
        microkernels.accumulate_bfloat16_4x4(
            weights, key, SPAN, v_cache, start, D, part, d, D, count
        )
