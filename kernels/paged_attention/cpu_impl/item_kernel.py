"""Computes items of the work list: a tile of queries against spans of KV.

Per span: pack 64 keys at a time, transposed and in float32, and multiply them by the tile's rows;
softmax of each row over its visible positions; pack 64 values at a time and multiply them by the
weights. While one pack is multiplied, the next is prefetched. bfloat16 keys and values are read in
place where the processor has instructions for them.

The form of it is a constant of each worker (`workers`): code of other forms is left out before
anything is compiled.
"""

from collections import namedtuple

import numpy as np

from thothy_kernels.numba_simd import amx, raw_memory
from thothy_kernels.numba_simd.functions import inlined, spliced
from thothy_kernels.paged_attention import SPAN
from thothy_kernels.paged_attention.cpu_impl import (
    amx_products,
    bf16_dot_products,
    packing,
    row_softmax,
)
from thothy_kernels.paged_attention.cpu_impl.arguments import ARG, scratch_of
from thothy_kernels.paged_attention.cpu_impl.packing import KEYS
from thothy_kernels.paged_attention.cpu_impl.work_list import (
    COLUMN,
    FIRST_LEVEL,
    LEVEL,
    LEVEL_COLUMNS,
    NUM_COLUMNS,
    NUM_LEVELS,
)

# Forms: float32; bfloat16 by float32 instructions; the same with dot products (vdpbf16ps) for single
# queries; bfloat16 by AMX.
FLOAT32, BFLOAT16, DOT_PRODUCTS, AMX = range(4)

# begin .. end: positions that any query of the tile attends to. first_end: the end for its first
# query; each following query attends to one more position.
_Tile = namedtuple("_Tile", "seq head first_row num_rows begin end first_end")


@inlined
def _tile_of(args, item):  # type: ignore[no-untyped-def]
    """The tile of an item: its rows and their visible positions."""
    cu_seqlens = raw_memory.int32_at(args[ARG.cu_seqlens], args[ARG.S] + 1)
    context_lens = raw_memory.int32_at(args[ARG.context_lens], args[ARG.S])
    seq, num_queries = item[COLUMN.seq], item[COLUMN.num_queries]
    first_row = cu_seqlens[seq] + item[COLUMN.first_query]
    first_end = context_lens[seq] - (cu_seqlens[seq + 1] - first_row) + 1
    end = first_end + num_queries - 1
    if item[COLUMN.visible_end] > 0:  # all queries of a group attend to all of its positions
        first_end = end = item[COLUMN.visible_end]
    num_rows = num_queries * (args[ARG.H] // args[ARG.K])
    begin = max(0, first_end - args[ARG.window])
    return _Tile(seq, item[COLUMN.head], first_row, num_rows, begin, end, first_end)


@inlined
def _is_single(args, tile):  # type: ignore[no-untyped-def]
    """True for one query with so few heads that dot products pay off."""
    rows = tile.num_rows
    return rows == args[ARG.H] // args[ARG.K] and rows <= bf16_dot_products.MAX_ROWS


@spliced
def _load_queries(args, tile, queries, form):  # type: ignore[no-untyped-def]
    address, stride = args[ARG.q], args[ARG.q_stride]
    size = args[ARG.T] * stride
    G, D = args[ARG.H] // args[ARG.K], args[ARG.D]
    scale = raw_memory.float32_of_bits(args[ARG.scale])
    at = (tile.first_row, tile.num_rows, tile.head)
    if form == AMX:
        pairs = raw_memory.int32_at(address, size // 2)
        amx_products.load_queries(pairs, queries, at[0], at[1], at[2], G, D, stride)
    elif form == DOT_PRODUCTS and _is_single(args, tile):
        pairs = raw_memory.int32_at(address, size // 2)
        bf16_dot_products.load_queries(pairs, queries, at[0], at[1], at[2], D, stride)
    elif form == FLOAT32:
        q32 = raw_memory.float32_at(address, size)
        row_softmax.load_queries(q32, queries, at[0], at[1], at[2], G, D, stride, scale)
    else:
        q16 = raw_memory.bfloat16_at(address, size)
        row_softmax.load_queries(q16, queries, at[0], at[1], at[2], G, D, stride, scale)


@spliced
def _write_out(args, tile, run, form):  # type: ignore[no-untyped-def]
    address, H, D = args[ARG.out], args[ARG.H], args[ARG.D]
    size, G, rows = args[ARG.T] * H * D, H // args[ARG.K], args[ARG.tile_rows]
    at = (tile.first_row, tile.num_rows, tile.head)
    if form == FLOAT32:
        out32 = raw_memory.float32_at(address, size)
        row_softmax.write_out(out32, run, at[0], at[1], at[2], H, G, D, rows)
    else:
        out16 = raw_memory.bfloat16_at(address, size)
        row_softmax.write_out(out16, run, at[0], at[1], at[2], H, G, D, rows)


@inlined
def _prefetch(args, which, size, table, head, begin, end):  # type: ignore[no-untyped-def]
    P, D, stride = args[ARG.P], args[ARG.D], args[ARG.block_stride]
    to = min(end, begin + KEYS)
    packing.prefetch(args[which], size, table, begin, to, head, stride, P, D)


@spliced
def _score_span(args, tile, table, scratch, begin, end, form):  # type: ignore[no-untyped-def]
    """scratch.weights = scores of the tile's rows for positions begin .. end."""
    address, size, D = args[ARG.k_cache], args[ARG.cache_size], args[ARG.D]
    softcap = raw_memory.float32_of_bits(args[ARG.softcap])
    element = 4 if form == FLOAT32 else 2
    first_key = max(0, tile.begin - begin)
    for first in range(first_key // KEYS * KEYS, end - begin, KEYS):
        ahead = begin + first + KEYS
        if ahead < end:
            _prefetch(args, ARG.k_cache, element, table, tile.head, ahead, end)
        else:
            _prefetch(args, ARG.v_cache, element, table, tile.head, begin + first_key, end)
        count = min(KEYS, end - begin - first)
        if form == FLOAT32:
            k32 = raw_memory.float32_at(address, size)
            packing.pack_keys(k32, scratch.starts, first, count, scratch.packed, D)
        else:
            k16 = raw_memory.bfloat16_at(address, size)
            packing.pack_keys_bfloat16(k16, scratch.starts, first, count, scratch.packed, D)
        row_softmax.score(scratch.queries, scratch.packed, scratch.weights, first, tile.num_rows, D)
        if softcap > np.float32(0.0):
            row_softmax.apply_softcap(scratch.weights, first, KEYS, softcap, tile.num_rows)


@spliced
def _accumulate_span(args, tile, table, scratch, begin, end, form):  # type: ignore[no-untyped-def]
    """scratch.part = weights of the tile's rows times values of positions begin .. end."""
    address, size, D = args[ARG.v_cache], args[ARG.cache_size], args[ARG.D]
    G = args[ARG.H] // args[ARG.K]
    part, packed, rows = scratch.part, scratch.packed, tile.num_rows
    row_softmax.clear(part, rows * ((D + 15) // 16 * 16))
    window = args[ARG.window]
    element = 4 if form == FLOAT32 else 2
    first_key = max(0, tile.begin - begin)
    for first in range(first_key // KEYS * KEYS, end - begin, KEYS):
        ahead = begin + first + KEYS
        if ahead < end:
            _prefetch(args, ARG.v_cache, element, table, tile.head, ahead, end)
        elif end < tile.end:
            _prefetch(args, ARG.k_cache, element, table, tile.head, end, tile.end)
        count = min(KEYS, end - begin - first)
        if form == FLOAT32:
            v32 = raw_memory.float32_at(address, size)
            packing.pack_values(v32, scratch.starts, first, count, packed, D)
        else:
            v16 = raw_memory.bfloat16_at(address, size)
            packing.pack_values(v16, scratch.starts, first, count, packed, D)
        first_end = tile.first_end - begin - first
        row_softmax.accumulate_values(
            scratch.weights, packed, part, first, count, first_end, window, rows, G, D
        )


@spliced
def _run_in_place(args, tile, table, scratch, begin, end, form):  # type: ignore[no-untyped-def]
    """scratch.part = partial result of a tile's rows for the span begin .. end: bfloat16 in
    place."""
    size, P, D = args[ARG.cache_size], args[ARG.P], args[ARG.D]
    rows, stride = args[ARG.tile_rows], args[ARG.block_stride]
    G, window = args[ARG.H] // args[ARG.K], args[ARG.window]
    softcap = raw_memory.float32_of_bits(args[ARG.softcap])
    scale = raw_memory.float32_of_bits(args[ARG.scale])
    k16 = raw_memory.bfloat16_at(args[ARG.k_cache], size)
    v16 = raw_memory.bfloat16_at(args[ARG.v_cache], size)
    num_keys, first_end, first_key = end - begin, tile.first_end - begin, max(0, tile.begin - begin)
    starts, ahead, num_rows = scratch.starts, scratch.ahead, tile.num_rows
    amx_products.locate_pieces(starts, table, begin, first_key, num_keys, tile.head, stride, P, D)
    pieces = (num_keys + 15) // 16
    for piece in range(pieces):  # values are prefetched while keys are multiplied
        ahead[piece] = args[ARG.v_cache] + 2 * starts[piece]
    first = first_key // 32 * 32
    if form == AMX:
        amx_products.score(k16, scratch, first, num_keys, ahead, num_rows, D, scale)
    else:
        bf16_dot_products.score(k16, scratch, first, num_keys, ahead, num_rows, D, scale)
    if softcap > np.float32(0.0):
        row_softmax.apply_softcap(scratch.weights, first, num_keys - first, softcap, num_rows)
    row_softmax.exponentiate(
        scratch.weights, scratch.part, first_end, window, num_rows, G, rows * D, rows
    )
    for piece in range(pieces):  # the next span's keys are prefetched while values are multiplied
        position = min(end + 16 * piece, tile.end - 1) // 16 * 16
        start = table[position // P] * stride + (tile.head * P + position % P) * D
        ahead[piece] = args[ARG.k_cache] + 2 * start
    if form == AMX:
        amx_products.pack_value_pairs(v16, scratch, first, first_key, num_keys, ahead, D)
        amx_products.split_weights(scratch, first, num_keys, first_end, window, num_rows, G)
        amx_products.accumulate_values(scratch, first, num_keys, num_rows, D)
    else:
        bf16_dot_products.accumulate_values(v16, scratch, first_key, num_keys, ahead, num_rows, D)


@inlined
def _load_grouped(item, tile, scratch, span, width, rows):  # type: ignore[no-untyped-def]
    """scratch.part = partial result of a span that a group item computed; False if none did."""
    for level in range(NUM_LEVELS):
        at = FIRST_LEVEL + level * LEVEL_COLUMNS
        first_span = item[at + LEVEL.first_span]
        if first_span <= span < item[at + LEVEL.end_span]:
            start = (item[at + LEVEL.partial] + span - first_span) * rows * (width + 2)
            stored, row = scratch.stored, item[at + LEVEL.first_row]
            row_softmax.load_rows(scratch.part, stored, start, row, tile.num_rows, width, rows)
            return True
    return False


@spliced
def _run_spans(args, item, tile, scratch, form):  # type: ignore[no-untyped-def]
    """Compute the item's spans: merged into scratch.run, or each stored to scratch.stored."""
    P, D, stride = args[ARG.P], args[ARG.D], args[ARG.block_stride]
    M, rows, G = args[ARG.M], args[ARG.tile_rows], args[ARG.H] // args[ARG.K]
    window = args[ARG.window]
    width = (D + 15) // 16 * 16
    tables = raw_memory.int32_at(args[ARG.block_tables], args[ARG.S] * M)
    table = tables[tile.seq * M : (tile.seq + 1) * M]
    for span in range(item[COLUMN.first_span], item[COLUMN.end_span]):
        begin = span * SPAN
        end = min(begin + SPAN, tile.end)
        if _load_grouped(item, tile, scratch, span, width, rows):
            pass
        elif form == AMX or (form == DOT_PRODUCTS and _is_single(args, tile)):
            _run_in_place(args, tile, table, scratch, begin, end, form)
        else:
            first_key = max(0, tile.begin - begin)
            starts, head = scratch.starts, tile.head
            packing.locate_keys(starts, table, begin, first_key, end - begin, head, stride, P, D)
            _score_span(args, tile, table, scratch, begin, end, form)
            first_end, at = tile.first_end - begin, rows * width
            weights, num_rows = scratch.weights, tile.num_rows
            row_softmax.exponentiate(
                weights, scratch.part, first_end, window, num_rows, G, at, rows
            )
            _accumulate_span(args, tile, table, scratch, begin, end, form)
        is_first = span == item[COLUMN.base_span]
        if item[COLUMN.partial] < 0:
            row_softmax.merge(scratch.run, scratch.part, 0, is_first, tile.num_rows, width, rows)
        else:
            to = (item[COLUMN.partial] + span - item[COLUMN.base_span]) * rows * (width + 2)
            row_softmax.copy(scratch.stored, to, scratch.part, tile.num_rows, width, rows)


@spliced
def _merge_stored(args, item, tile, scratch):  # type: ignore[no-untyped-def]
    """Merge the stored spans of a tile that is cut if this item is its last; False otherwise."""
    finished = raw_memory.int64_at(args[ARG.finished_spans], args[ARG.num_cut_tiles])
    rows, width = args[ARG.tile_rows], (args[ARG.D] + 15) // 16 * 16
    spans = item[COLUMN.end_span] - item[COLUMN.first_span]
    if raw_memory.fetch_add(finished, item[COLUMN.tile], spans) + spans < item[COLUMN.num_spans]:
        return False
    for span in range(item[COLUMN.num_spans]):
        start = (item[COLUMN.partial] + span) * rows * (width + 2)
        row_softmax.merge(scratch.run, scratch.stored, start, span == 0, tile.num_rows, width, rows)
    return True


@spliced
def run_items(args, form):  # type: ignore[no-untyped-def]
    """Compute items of the work list until none is left; see `arguments.Arguments`."""
    scratch = scratch_of(args)
    items = raw_memory.int64_at(args[ARG.items], args[ARG.num_items] * NUM_COLUMNS)
    if form == AMX:
        amx.configure(scratch.saved)
    while True:
        number = raw_memory.fetch_add(args, ARG.next_item, 1)
        if number >= args[ARG.num_items]:
            break
        item = items[number * NUM_COLUMNS : (number + 1) * NUM_COLUMNS]
        tile = _tile_of(args, item)
        _load_queries(args, tile, scratch.queries, form)
        _run_spans(args, item, tile, scratch, form)
        if item[COLUMN.visible_end] > 0:
            continue  # the tiles of the group's sequences merge the stored spans
        if item[COLUMN.partial] < 0 or _merge_stored(args, item, tile, scratch):
            _write_out(args, tile, scratch.run, form)
    if form == AMX:
        amx.restore(scratch.saved)
