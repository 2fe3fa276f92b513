"""bfloat16 scores and weighted values by AMX: the counterpart of `row_softmax` for float32.

Keys are read in place, 16 in a tile; queries are packed in pairs once per item. Scores come out by
key and are transposed to rows. float32 weights are split into two bfloat16 whose sum has 16 of
their bits, so a result errs by no more than its own rounding. Elements are summed in the order of d
or of the position. A position that is not visible to a row has weight 0 and is replaced by the
value of a visible position, which is finite.
"""

import numpy as np

from thothy_kernels.numba_simd import amx, bf16_pairs, microkernels, raw_memory, vec16
from thothy_kernels.numba_simd.functions import inlined
from thothy_kernels.paged_attention import SPAN

_ZERO = np.float32(0.0)


@inlined
def load_queries(q, queries, first_row, num_rows, head, G, D, stride):  # type: ignore[no-untyped-def]
    """queries[row // 16, d // 2, row % 16] = a pair of q; both as int32 pairs."""
    to = raw_memory.int32_at(queries.ctypes.data, len(queries))
    for row in range(num_rows):
        source = ((first_row + row // G) * stride + (head * G + row % G) * D) // 2
        at = row // 16 * 16 * (D // 2) + row % 16
        for pair in range(D // 2):
            to[at + pair * 16] = q[source + pair]


@inlined
def locate_pieces(starts, table, begin, first_key, num_keys, head, stride, P, D):  # type: ignore[no-untyped-def]
    """starts[i] = offset of keys 16 i .. 16 i + 15 of a span, which are in one block. Pieces that
    end before `first_key`, the first visible key, repeat its piece."""
    for piece in range((num_keys + 15) // 16):
        position = begin + max(16 * piece, first_key // 16 * 16)
        starts[piece] = table[position // P] * stride + (head * P + position % P) * D


@inlined
def score(k_cache, scratch, first, end, ahead, num_rows, D, scale):  # type: ignore[no-untyped-def]
    """weights[row, key] = scale * query . key for keys `first` .. `end`, whole pieces of 16.

    ahead: addresses to prefetch meanwhile, one for each piece.
    """
    factor = vec16.broadcast(scale)
    if num_rows > 16:
        for key in range(first, end, 16):
            for row in range(0, num_rows, 64):
                num = min(64, num_rows - row)
                _score_rows(k_cache, scratch, key, row, num, ahead[key // 16], D)
                _transpose_scores(scratch, row * SPAN + key, 16 * SPAN, (num + 15) // 16, factor)
        return
    for key in range(first, end, 64):
        num = min(64, end - key)
        _score_keys(k_cache, scratch, key, num, ahead, D)
        _transpose_scores(scratch, key, 16, (num + 15) // 16, factor)


@inlined
def _transpose_scores(scratch, to, step, num, factor):  # type: ignore[no-untyped-def]
    """weights[to + tile * step] = scores in tiles 0 .. num - 1, transposed from keys to rows."""
    square, weights = scratch.square, scratch.weights
    amx.store(0, square, 0, 16)
    if num > 1:
        amx.store(1, square, 256, 16)
    if num > 2:
        amx.store(2, square, 512, 16)
    if num > 3:
        amx.store(3, square, 768, 16)
    for tile in range(num):
        microkernels.transpose_square(square, tile * 256, weights, to + tile * step, SPAN, factor)


@inlined
def _score_keys(k_cache, scratch, key, num_keys, ahead, D):  # type: ignore[no-untyped-def]
    """Tiles 0 .. 3 = up to 64 keys, 16 in a tile, times up to 16 queries."""
    queries = raw_memory.bfloat16_at(scratch.queries.ctypes.data, 2 * len(scratch.queries))
    starts, piece = scratch.starts, key // 16
    last = piece + (num_keys - 1) // 16
    one, two, three = min(piece + 1, last), min(piece + 2, last), min(piece + 3, last)
    amx.clear(0)
    amx.clear(1)
    amx.clear(2)
    amx.clear(3)
    for d in range(0, D, 32):
        amx.load(5, queries, d * 16, 32)
        _prefetch(ahead[piece], d)
        amx.load(4, k_cache, starts[piece] + d, D)
        amx.multiply_add(0, 4, 5)
        _prefetch(ahead[one], d)
        amx.load(6, k_cache, starts[one] + d, D)
        amx.multiply_add(1, 6, 5)
        _prefetch(ahead[two], d)
        amx.load(4, k_cache, starts[two] + d, D)
        amx.multiply_add(2, 4, 5)
        _prefetch(ahead[three], d)
        amx.load(6, k_cache, starts[three] + d, D)
        amx.multiply_add(3, 6, 5)


@inlined
def _prefetch(address, d):  # type: ignore[no-untyped-def]
    """Prefetch the share of a piece of 16 keys that goes with columns d .. d + 31."""
    part = address + 32 * d
    for byte in range(0, 1024, 64):
        microkernels.prefetch(part + byte)


@inlined
def _score_rows(k_cache, scratch, key, row, num_rows, ahead, D):  # type: ignore[no-untyped-def]
    """Tiles 0 .. 3 = 16 keys times up to 64 queries, 16 in a tile."""
    queries = raw_memory.bfloat16_at(scratch.queries.ctypes.data, 2 * len(scratch.queries))
    keys, at = scratch.starts[key // 16], row * D
    amx.clear(0)
    amx.clear(1)
    amx.clear(2)
    amx.clear(3)
    for d in range(0, D, 32):
        _prefetch(ahead, d)
        amx.load(4, k_cache, keys + d, D)
        amx.load(5, queries, at + d * 16, 32)
        amx.multiply_add(0, 4, 5)
        if num_rows > 16:
            amx.load(6, queries, at + d * 16 + 16 * D, 32)
            amx.multiply_add(1, 4, 6)
        if num_rows > 32:
            amx.load(5, queries, at + d * 16 + 32 * D, 32)
            amx.multiply_add(2, 4, 5)
        if num_rows > 48:
            amx.load(6, queries, at + d * 16 + 48 * D, 32)
            amx.multiply_add(3, 4, 6)


@inlined
def pack_value_pairs(v_cache, scratch, first, first_key, num_keys, ahead, D):  # type: ignore[no-untyped-def]
    """packed[key // 2, d, key % 2] = values from `first` on, whole tiles of 32 keys."""
    packed = raw_memory.bfloat16_at(scratch.packed.ctypes.data, 2 * len(scratch.packed))
    starts = scratch.starts
    for key in range(first, (num_keys + 31) // 32 * 32, 2):
        # Slots outside first_key .. num_keys may hold anything, infinities too.
        one = min(max(key, first_key), num_keys - 1)
        other = min(max(key + 1, first_key), num_keys - 1)
        at, behind = starts[one // 16] + one % 16 * D, starts[other // 16] + other % 16 * D
        fetched = ahead[one // 16] + one % 16 * D * 2
        for d in range(0, D, 32):
            microkernels.prefetch(fetched + 4 * d)
            microkernels.prefetch(fetched + 4 * d + 64)
            bf16_pairs.interleave(v_cache, at + d, behind + d, packed, key * D + 2 * d)


@inlined
def split_weights(scratch, first, num_keys, first_end, window, num_rows, G):  # type: ignore[no-untyped-def]
    """split[0] + split[1] = weights in whole tiles of 32 keys; 0 where not visible to the row."""
    weights, split = scratch.weights, scratch.split
    low_part = len(split) // 2
    for row in range(num_rows):
        visible = min(num_keys, first_end + row // G)
        begin = max(0, first_end + row // G - window) // 16 * 16
        for i in range(first, (num_keys + 31) // 32 * 32, 16):
            at = row * SPAN + i
            weight = vec16.broadcast(_ZERO)
            if begin <= i < visible:
                weight = vec16.load(weights, at)
            vec16.store(split, at, weight)
            rest = vec16.subtract(weight, vec16.load(split, at))
            vec16.store(split, low_part + at, rest)


@inlined
def accumulate_values(scratch, first, num_keys, num_rows, D):  # type: ignore[no-untyped-def]
    """part[row] = sum of weights[row, key] * value[key]."""
    for row in range(0, num_rows, 16):
        for d in range(0, D, 64):
            _accumulate_tiles(scratch, first // 32 * 32, num_keys, row, d, D)


@inlined
def _accumulate_tiles(scratch, first, num_keys, row, d, D):  # type: ignore[no-untyped-def]
    """part = 16 rows times up to 64 columns, in tiles 0 .. 3."""
    packed = raw_memory.bfloat16_at(scratch.packed.ctypes.data, 2 * len(scratch.packed))
    split, part, wide = scratch.split, scratch.part, D - d >= 64
    low_part = len(split) // 2
    amx.clear(0)
    amx.clear(1)
    amx.clear(2)
    amx.clear(3)
    for key in range(first, num_keys, 32):
        amx.load(4, split, row * SPAN + key, SPAN)
        amx.load(5, split, low_part + row * SPAN + key, SPAN)
        values = key * D + 2 * d
        amx.load(6, packed, values, 2 * D)
        amx.multiply_add(0, 4, 6)
        amx.multiply_add(0, 5, 6)
        amx.load(7, packed, values + 32, 2 * D)
        amx.multiply_add(1, 4, 7)
        amx.multiply_add(1, 5, 7)
        if wide:
            amx.load(6, packed, values + 64, 2 * D)
            amx.multiply_add(2, 4, 6)
            amx.multiply_add(2, 5, 6)
            amx.load(7, packed, values + 96, 2 * D)
            amx.multiply_add(3, 4, 7)
            amx.multiply_add(3, 5, 7)
    to = row * D + d
    amx.store(0, part, to, D)
    amx.store(1, part, to + 16, D)
    if wide:
        amx.store(2, part, to + 32, D)
        amx.store(3, part, to + 48, D)
