"""Scores and weighted values of bfloat16 by matrix tiles: what `row_math` does for float32.

Keys are read where they lie, 16 in a tile; the queries stand in pairs, packed once for an item.
Scores come out by keys and are turned to rows. Weights, which are float32, are split into two
bfloat16 whose sum has 16 bits of them, so that a result errs by no more than its own rounding; an
element gets its summands in the order of d or of the position. Weights of positions that a row
does not see are 0, and what stands in for such values is finite: it is the value of a position
that is seen.
"""

import numpy as np

from thothy_kernels.numba_simd import amx as mt
from thothy_kernels.numba_simd import bf16_pairs, microkernels, raw_memory, vec16
from thothy_kernels.numba_simd.functions import inlined
from thothy_kernels.paged_attention import SPAN

_ZERO = np.float32(0.0)


@inlined
def load_queries(q, queries, first_row, num_rows, head, G, D, stride):  # type: ignore[no-untyped-def]
    """queries[row // 16, d // 2, row % 16] = a pair of q; `q`, `queries` as pairs: int32."""
    to = raw_memory.int32_at(queries.ctypes.data, len(queries))
    for row in range(num_rows):
        source = ((first_row + row // G) * stride + (head * G + row % G) * D) // 2
        at = row // 16 * 16 * (D // 2) + row % 16
        for pair in range(D // 2):
            to[at + pair * 16] = q[source + pair]


@inlined
def locate_pieces(starts, table, begin, seen, num_keys, head, stride, P, D):  # type: ignore[no-untyped-def]
    """starts[i] = where keys 16 i .. 16 i + 15 of a span begin; they lie in one block. Nobody sees
    those before `seen`: where all of a piece's 16 are such, the first that is seen stands in."""
    for piece in range((num_keys + 15) // 16):
        position = begin + max(16 * piece, seen // 16 * 16)
        starts[piece] = table[position // P] * stride + (head * P + position % P) * D


@inlined
def score(k_cache, scratch, first, end, ahead, num_rows, D, scale):  # type: ignore[no-untyped-def]
    """weights[row, key] = scale * query . key, for keys `first` .. `end`, whole pieces of 16.

    ahead: addresses to fetch meanwhile, one for each piece.
    """
    factor = vec16.spread(scale)
    if num_rows > 16:
        for key in range(first, end, 16):
            for row in range(0, num_rows, 64):
                num = min(64, num_rows - row)
                _score_rows(k_cache, scratch, key, row, num, ahead[key // 16], D)
                _turn(scratch, row * SPAN + key, 16 * SPAN, (num + 15) // 16, factor)
        return
    for key in range(first, end, 64):
        num = min(64, end - key)
        _score_keys(k_cache, scratch, key, num, ahead, D)
        _turn(scratch, key, 16, (num + 15) // 16, factor)


@inlined
def _turn(scratch, to, step, num, factor):  # type: ignore[no-untyped-def]
    """Scores in tiles 0 .. num - 1 to weights[to + tile * step], each turned from keys to rows."""
    square, weights = scratch.square, scratch.weights
    mt.store(0, square, 0, 16)
    if num > 1:
        mt.store(1, square, 256, 16)
    if num > 2:
        mt.store(2, square, 512, 16)
    if num > 3:
        mt.store(3, square, 768, 16)
    for tile in range(num):
        microkernels.transpose_square(square, tile * 256, weights, to + tile * step, SPAN, factor)


@inlined
def _score_keys(k_cache, scratch, key, num_keys, ahead, D):  # type: ignore[no-untyped-def]
    """Tiles 0 .. 3 = up to 64 keys, 16 in a tile, times up to 16 queries."""
    queries = raw_memory.bfloat16_at(scratch.queries.ctypes.data, 2 * len(scratch.queries))
    starts, piece = scratch.starts, key // 16
    last = piece + (num_keys - 1) // 16
    one, two, three = min(piece + 1, last), min(piece + 2, last), min(piece + 3, last)
    mt.clear(0)
    mt.clear(1)
    mt.clear(2)
    mt.clear(3)
    for d in range(0, D, 32):
        mt.load(5, queries, d * 16, 32)
        _fetch(ahead[piece], d, D)
        mt.load(4, k_cache, starts[piece] + d, D)
        mt.multiply_add(0, 4, 5)
        _fetch(ahead[one], d, D)
        mt.load(6, k_cache, starts[one] + d, D)
        mt.multiply_add(1, 6, 5)
        _fetch(ahead[two], d, D)
        mt.load(4, k_cache, starts[two] + d, D)
        mt.multiply_add(2, 4, 5)
        _fetch(ahead[three], d, D)
        mt.load(6, k_cache, starts[three] + d, D)
        mt.multiply_add(3, 6, 5)


@inlined
def _fetch(address, d, D):  # type: ignore[no-untyped-def]
    """Ask for the part of a piece of 16 keys that belongs to columns d .. d + 31."""
    part = address + 32 * d
    for byte in range(0, 1024, 64):
        microkernels.prefetch(part + byte)


@inlined
def _score_rows(k_cache, scratch, key, row, num_rows, ahead, D):  # type: ignore[no-untyped-def]
    """Tiles 0 .. 3 = 16 keys times up to 64 queries, 16 in a tile."""
    queries = raw_memory.bfloat16_at(scratch.queries.ctypes.data, 2 * len(scratch.queries))
    keys, at = scratch.starts[key // 16], row * D
    mt.clear(0)
    mt.clear(1)
    mt.clear(2)
    mt.clear(3)
    for d in range(0, D, 32):
        _fetch(ahead, d, D)
        mt.load(4, k_cache, keys + d, D)
        mt.load(5, queries, at + d * 16, 32)
        mt.multiply_add(0, 4, 5)
        if num_rows > 16:
            mt.load(6, queries, at + d * 16 + 16 * D, 32)
            mt.multiply_add(1, 4, 6)
        if num_rows > 32:
            mt.load(5, queries, at + d * 16 + 32 * D, 32)
            mt.multiply_add(2, 4, 5)
        if num_rows > 48:
            mt.load(6, queries, at + d * 16 + 48 * D, 32)
            mt.multiply_add(3, 4, 6)


@inlined
def pair_values(v_cache, scratch, first, seen, num_keys, ahead, D):  # type: ignore[no-untyped-def]
    """packed[key // 2, d, key % 2] of the values from `first` on, whole tiles of 32 keys."""
    packed = raw_memory.bfloat16_at(scratch.packed.ctypes.data, 2 * len(scratch.packed))
    starts = scratch.starts
    for key in range(first, (num_keys + 31) // 32 * 32, 2):
        # What nobody sees may be anything, infinities too.
        one = min(max(key, seen), num_keys - 1)
        other = min(max(key + 1, seen), num_keys - 1)
        at, behind = starts[one // 16] + one % 16 * D, starts[other // 16] + other % 16 * D
        fetched = ahead[one // 16] + one % 16 * D * 2
        for d in range(0, D, 32):
            microkernels.prefetch(fetched + 4 * d)
            microkernels.prefetch(fetched + 4 * d + 64)
            bf16_pairs.interleave(v_cache, at + d, behind + d, packed, key * D + 2 * d)


@inlined
def split_weights(scratch, first, num_keys, sees, window, num_rows, G):  # type: ignore[no-untyped-def]
    """split[0] + split[1] = weights, in whole tiles of 32 keys; 0 for what a row does not see."""
    weights, split = scratch.weights, scratch.split
    low_part = len(split) // 2
    for row in range(num_rows):
        visible = min(num_keys, sees + row // G)
        begin = max(0, sees + row // G - window) // 16 * 16
        for i in range(first, (num_keys + 31) // 32 * 32, 16):
            at = row * SPAN + i
            weight = vec16.spread(_ZERO)
            if begin <= i < visible:
                weight = vec16.load(weights, at)
            vec16.store(split, at, weight)
            rest = vec16.subtract(weight, vec16.load(split, at))
            vec16.store(split, low_part + at, rest)


@inlined
def weigh(scratch, first, num_keys, num_rows, D):  # type: ignore[no-untyped-def]
    """part[row] = the sum of weights[row, key] * value[key]."""
    for row in range(0, num_rows, 16):
        for d in range(0, D, 64):
            _weigh_tiles(scratch, first // 32 * 32, num_keys, row, d, D)


@inlined
def _weigh_tiles(scratch, first, num_keys, row, d, D):  # type: ignore[no-untyped-def]
    """16 rows times up to 64 columns, in tiles 0 .. 3."""
    packed = raw_memory.bfloat16_at(scratch.packed.ctypes.data, 2 * len(scratch.packed))
    split, part, wide = scratch.split, scratch.part, D - d >= 64
    low_part = len(split) // 2
    mt.clear(0)
    mt.clear(1)
    mt.clear(2)
    mt.clear(3)
    for key in range(first, num_keys, 32):
        mt.load(4, split, row * SPAN + key, SPAN)
        mt.load(5, split, low_part + row * SPAN + key, SPAN)
        values = key * D + 2 * d
        mt.load(6, packed, values, 2 * D)
        mt.multiply_add(0, 4, 6)
        mt.multiply_add(0, 5, 6)
        mt.load(7, packed, values + 32, 2 * D)
        mt.multiply_add(1, 4, 7)
        mt.multiply_add(1, 5, 7)
        if wide:
            mt.load(6, packed, values + 64, 2 * D)
            mt.multiply_add(2, 4, 6)
            mt.multiply_add(2, 5, 6)
            mt.load(7, packed, values + 96, 2 * D)
            mt.multiply_add(3, 4, 7)
            mt.multiply_add(3, 5, 7)
    to = row * D + d
    mt.store(0, part, to, D)
    mt.store(1, part, to + 16, D)
    if wide:
        mt.store(2, part, to + 32, D)
        mt.store(3, part, to + 48, D)
