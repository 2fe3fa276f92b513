"""The forms of attention: how queries are loaded, a span is computed, and results are written.

Packed, per span: pack 64 keys at a time, transposed and in float32, and multiply them by the tile's
rows; softmax of each row over its visible positions; pack 64 values at a time and multiply them by
the weights. While one pack is multiplied, the next is prefetched. In place: bfloat16 keys and
values are read where they lie, by instructions that the processor has for them.

Each function has the arguments of the others of its kind, so that a worker is made of three.
"""

import numpy as np

from thothy_kernels.numba_simd import raw_memory
from thothy_kernels.numba_simd.functions import inlined
from thothy_kernels.paged_attention.cpu_impl import (
    amx_products,
    bf16_dot_products,
    packing,
    row_softmax,
)
from thothy_kernels.paged_attention.cpu_impl.arguments import ARG
from thothy_kernels.paged_attention.cpu_impl.packing import KEYS


@inlined
def _is_single(args, tile):  # type: ignore[no-untyped-def]
    """True for one query with so few heads that dot products pay off."""
    rows = tile.num_rows
    return rows == args[ARG.H] // args[ARG.K] and rows <= bf16_dot_products.MAX_ROWS


@inlined
def _load_scaled(args, tile, q, queries):  # type: ignore[no-untyped-def]
    G, D, stride = args[ARG.H] // args[ARG.K], args[ARG.D], args[ARG.q_stride]
    scale = raw_memory.float32_of_bits(args[ARG.scale])
    at = (tile.first_row, tile.num_rows, tile.head)
    row_softmax.load_queries(q, queries, at[0], at[1], at[2], G, D, stride, scale)


@inlined
def load_float32(args, tile, queries):  # type: ignore[no-untyped-def]
    q = raw_memory.float32_at(args[ARG.q], args[ARG.T] * args[ARG.q_stride])
    _load_scaled(args, tile, q, queries)


@inlined
def load_bfloat16(args, tile, queries):  # type: ignore[no-untyped-def]
    q = raw_memory.bfloat16_at(args[ARG.q], args[ARG.T] * args[ARG.q_stride])
    _load_scaled(args, tile, q, queries)


@inlined
def load_for_dot_products(args, tile, queries):  # type: ignore[no-untyped-def]
    if _is_single(args, tile):
        stride = args[ARG.q_stride]
        pairs = raw_memory.int32_at(args[ARG.q], args[ARG.T] * stride // 2)
        at = (tile.first_row, tile.num_rows, tile.head)
        bf16_dot_products.load_queries(pairs, queries, at[0], at[1], at[2], args[ARG.D], stride)
    else:
        load_bfloat16(args, tile, queries)


@inlined
def load_for_amx(args, tile, queries):  # type: ignore[no-untyped-def]
    G, D, stride = args[ARG.H] // args[ARG.K], args[ARG.D], args[ARG.q_stride]
    pairs = raw_memory.int32_at(args[ARG.q], args[ARG.T] * stride // 2)
    at = (tile.first_row, tile.num_rows, tile.head)
    amx_products.load_queries(pairs, queries, at[0], at[1], at[2], G, D, stride)


@inlined
def _write(args, tile, run, out):  # type: ignore[no-untyped-def]
    H, G, D = args[ARG.H], args[ARG.H] // args[ARG.K], args[ARG.D]
    at = (tile.first_row, tile.num_rows, tile.head)
    row_softmax.write_out(out, run, at[0], at[1], at[2], H, G, D, args[ARG.tile_rows])


@inlined
def write_float32(args, tile, run):  # type: ignore[no-untyped-def]
    out = raw_memory.float32_at(args[ARG.out], args[ARG.T] * args[ARG.H] * args[ARG.D])
    _write(args, tile, run, out)


@inlined
def write_bfloat16(args, tile, run):  # type: ignore[no-untyped-def]
    out = raw_memory.bfloat16_at(args[ARG.out], args[ARG.T] * args[ARG.H] * args[ARG.D])
    _write(args, tile, run, out)


@inlined
def _prefetch(args, which, size, table, head, begin, end):  # type: ignore[no-untyped-def]
    P, D, stride = args[ARG.P], args[ARG.D], args[ARG.block_stride]
    to = min(end, begin + KEYS)
    packing.prefetch(args[which], size, table, begin, to, head, stride, P, D)


@inlined
def _score_span(args, tile, table, scratch, begin, end, keys, size, pack):  # type: ignore[no-untyped-def]
    """scratch.weights = scores of the tile's rows for positions begin .. end. `size`: bytes of an
    element of `keys`, which `pack` packs."""
    D, softcap = args[ARG.D], raw_memory.float32_of_bits(args[ARG.softcap])
    first_key = max(0, tile.begin - begin)
    for first in range(first_key // KEYS * KEYS, end - begin, KEYS):
        ahead = begin + first + KEYS
        if ahead < end:
            _prefetch(args, ARG.k_cache, size, table, tile.head, ahead, end)
        else:
            _prefetch(args, ARG.v_cache, size, table, tile.head, begin + first_key, end)
        count = min(KEYS, end - begin - first)
        pack(keys, scratch.starts, first, count, scratch.packed, D)
        row_softmax.score(scratch.queries, scratch.packed, scratch.weights, first, tile.num_rows, D)
        if softcap > np.float32(0.0):
            row_softmax.apply_softcap(scratch.weights, first, KEYS, softcap, tile.num_rows)


@inlined
def _accumulate_span(args, tile, table, scratch, begin, end, values, size):  # type: ignore[no-untyped-def]
    """scratch.part = weights of the tile's rows times values of positions begin .. end."""
    D, G, window = args[ARG.D], args[ARG.H] // args[ARG.K], args[ARG.window]
    part, packed, rows = scratch.part, scratch.packed, tile.num_rows
    row_softmax.clear(part, rows * ((D + 15) // 16 * 16))
    first_key = max(0, tile.begin - begin)
    for first in range(first_key // KEYS * KEYS, end - begin, KEYS):
        ahead = begin + first + KEYS
        if ahead < end:
            _prefetch(args, ARG.v_cache, size, table, tile.head, ahead, end)
        elif end < tile.end:
            _prefetch(args, ARG.k_cache, size, table, tile.head, end, tile.end)
        count = min(KEYS, end - begin - first)
        packing.pack_values(values, scratch.starts, first, count, packed, D)
        first_end = tile.first_end - begin - first
        row_softmax.accumulate_values(
            scratch.weights, packed, part, first, count, first_end, window, rows, G, D
        )


@inlined
def _run_packed(args, tile, table, scratch, begin, end, keys, values, size, pack):  # type: ignore[no-untyped-def]
    """scratch.part = partial result of a tile's rows for the span begin .. end."""
    P, D, stride = args[ARG.P], args[ARG.D], args[ARG.block_stride]
    rows, G, window = args[ARG.tile_rows], args[ARG.H] // args[ARG.K], args[ARG.window]
    first_key, starts = max(0, tile.begin - begin), scratch.starts
    packing.locate_keys(starts, table, begin, first_key, end - begin, tile.head, stride, P, D)
    _score_span(args, tile, table, scratch, begin, end, keys, size, pack)
    first_end, at = tile.first_end - begin, rows * ((D + 15) // 16 * 16)
    row_softmax.exponentiate(
        scratch.weights, scratch.part, first_end, window, tile.num_rows, G, at, rows
    )
    _accumulate_span(args, tile, table, scratch, begin, end, values, size)


@inlined
def span_of_float32(args, tile, table, scratch, begin, end):  # type: ignore[no-untyped-def]
    keys = raw_memory.float32_at(args[ARG.k_cache], args[ARG.cache_size])
    values = raw_memory.float32_at(args[ARG.v_cache], args[ARG.cache_size])
    _run_packed(args, tile, table, scratch, begin, end, keys, values, 4, packing.pack_keys)


@inlined
def span_of_bfloat16(args, tile, table, scratch, begin, end):  # type: ignore[no-untyped-def]
    keys = raw_memory.bfloat16_at(args[ARG.k_cache], args[ARG.cache_size])
    values = raw_memory.bfloat16_at(args[ARG.v_cache], args[ARG.cache_size])
    _run_packed(args, tile, table, scratch, begin, end, keys, values, 2, packing.pack_keys_bfloat16)


@inlined
def _before_in_place(args, tile, table, scratch, begin, end):  # type: ignore[no-untyped-def]
    """Locate the pieces of a span; values are prefetched while keys are multiplied."""
    P, D, stride = args[ARG.P], args[ARG.D], args[ARG.block_stride]
    num_keys, first_key = end - begin, max(0, tile.begin - begin)
    starts, ahead = scratch.starts, scratch.ahead
    amx_products.locate_pieces(starts, table, begin, first_key, num_keys, tile.head, stride, P, D)
    for piece in range((num_keys + 15) // 16):
        ahead[piece] = args[ARG.v_cache] + 2 * starts[piece]


@inlined
def _weigh_in_place(args, tile, table, scratch, begin, end):  # type: ignore[no-untyped-def]
    """Scores to weights; the next span's keys are prefetched while values are multiplied."""
    P, D, stride = args[ARG.P], args[ARG.D], args[ARG.block_stride]
    rows, G, window = args[ARG.tile_rows], args[ARG.H] // args[ARG.K], args[ARG.window]
    softcap = raw_memory.float32_of_bits(args[ARG.softcap])
    num_keys, first_end = end - begin, tile.first_end - begin
    first, num_rows, ahead = max(0, tile.begin - begin) // 32 * 32, tile.num_rows, scratch.ahead
    if softcap > np.float32(0.0):
        row_softmax.apply_softcap(scratch.weights, first, num_keys - first, softcap, num_rows)
    row_softmax.exponentiate(
        scratch.weights, scratch.part, first_end, window, num_rows, G, rows * D, rows
    )
    for piece in range((num_keys + 15) // 16):
        position = min(end + 16 * piece, tile.end - 1) // 16 * 16
        start = table[position // P] * stride + (tile.head * P + position % P) * D
        ahead[piece] = args[ARG.k_cache] + 2 * start


@inlined
def _span_by_dot_products(args, tile, table, scratch, begin, end):  # type: ignore[no-untyped-def]
    size, D, num_rows = args[ARG.cache_size], args[ARG.D], tile.num_rows
    scale = raw_memory.float32_of_bits(args[ARG.scale])
    keys = raw_memory.bfloat16_at(args[ARG.k_cache], size)
    values = raw_memory.bfloat16_at(args[ARG.v_cache], size)
    num_keys, first_key, ahead = end - begin, max(0, tile.begin - begin), scratch.ahead
    first = first_key // 32 * 32
    _before_in_place(args, tile, table, scratch, begin, end)
    bf16_dot_products.score(keys, scratch, first, num_keys, ahead, num_rows, D, scale)
    _weigh_in_place(args, tile, table, scratch, begin, end)
    bf16_dot_products.accumulate_values(values, scratch, first_key, num_keys, ahead, num_rows, D)


@inlined
def span_with_dot_products(args, tile, table, scratch, begin, end):  # type: ignore[no-untyped-def]
    if _is_single(args, tile):
        _span_by_dot_products(args, tile, table, scratch, begin, end)
    else:
        span_of_bfloat16(args, tile, table, scratch, begin, end)


@inlined
def span_by_amx(args, tile, table, scratch, begin, end):  # type: ignore[no-untyped-def]
    size, D, num_rows = args[ARG.cache_size], args[ARG.D], tile.num_rows
    G, window = args[ARG.H] // args[ARG.K], args[ARG.window]
    scale = raw_memory.float32_of_bits(args[ARG.scale])
    keys = raw_memory.bfloat16_at(args[ARG.k_cache], size)
    values = raw_memory.bfloat16_at(args[ARG.v_cache], size)
    num_keys, first_end = end - begin, tile.first_end - begin
    first_key, ahead = max(0, tile.begin - begin), scratch.ahead
    first = first_key // 32 * 32
    _before_in_place(args, tile, table, scratch, begin, end)
    amx_products.score(keys, scratch, first, num_keys, ahead, num_rows, D, scale)
    _weigh_in_place(args, tile, table, scratch, begin, end)
    amx_products.pack_value_pairs(values, scratch, first, first_key, num_keys, ahead, D)
    amx_products.split_weights(scratch, first, num_keys, first_end, window, num_rows, G)
    amx_products.accumulate_values(scratch, first, num_keys, num_rows, D)
