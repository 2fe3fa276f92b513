"""One item of the work list: the queries of a tile against spans of positions.

Per span: pack 64 keys at a time, transposed and widened, and multiply by the rows of the tile;
softmax of each row over what it sees; pack 64 values at a time and multiply by the weights. While
one pack is multiplied the next is fetched from memory. In bfloat16 keys and values are used where
they lie, as far as the processor has instructions for it.
"""

from collections import namedtuple

import numpy as np

from thothy_kernels.numba_simd import amx, raw_memory
from thothy_kernels.numba_simd.functions import inlined, spliced, worker
from thothy_kernels.paged_attention import SPAN
from thothy_kernels.paged_attention.cpu_impl import (
    amx_products,
    arguments,
    bf16_dot_products,
    packing,
    row_softmax,
)
from thothy_kernels.paged_attention.cpu_impl.packing import KEYS
from thothy_kernels.paged_attention.cpu_impl.work_list import (
    BASE_SPAN,
    END_SPAN,
    FIRST_QUERY,
    FIRST_SPAN,
    GROUP,
    HEAD,
    LEVEL_COLUMNS,
    NUM_COLUMNS,
    NUM_LEVELS,
    NUM_QUERIES,
    NUM_SPANS,
    PARTIAL,
    SEES,
    SEQ,
    TILE,
)

AHEAD = 64

# `sees`: where what the first query of the tile sees ends; the next sees one more. Nobody sees
# further back than `first`, or further than `end`.
_Tile = namedtuple("_Tile", "seq head first_row num_rows sees first end")


@inlined
def _tile_of(args, item):  # type: ignore[no-untyped-def]
    cu_seqlens = raw_memory.int32_at(args[arguments.CU_SEQLENS], args[arguments.S] + 1)
    context_lens = raw_memory.int32_at(args[arguments.CONTEXT_LENS], args[arguments.S])
    seq, num_queries = item[SEQ], item[NUM_QUERIES]
    first_row = cu_seqlens[seq] + item[FIRST_QUERY]
    sees = context_lens[seq] - (cu_seqlens[seq + 1] - first_row) + 1
    end = sees + num_queries - 1
    if item[SEES] > 0:  # queries of several sequences, all of which see all of it
        sees = end = item[SEES]
    num_rows = num_queries * (args[arguments.H] // args[arguments.K])
    first = max(0, sees - args[arguments.WINDOW])
    return _Tile(seq, item[HEAD], first_row, num_rows, sees, first, end)


@inlined
def _reads_in_place(args, tile):  # type: ignore[no-untyped-def]
    """Whether keys and values are used as they lie: by matrix tiles, or of one query by dots."""
    is_single = tile.num_rows == args[arguments.H] // args[arguments.K]
    by_dots = (
        args[arguments.USES_DOTS] and is_single and tile.num_rows <= bf16_dot_products.MAX_ROWS
    )
    return args[arguments.USES_TILES] or by_dots


@spliced
def _load_queries(args, tile, queries):  # type: ignore[no-untyped-def]
    address, stride = args[arguments.Q], args[arguments.Q_STRIDE]
    size = args[arguments.T] * stride
    G, D = args[arguments.H] // args[arguments.K], args[arguments.D]
    scale = raw_memory.float32_of_bits(args[arguments.SCALE])
    at = (tile.first_row, tile.num_rows, tile.head)
    if args[arguments.USES_TILES]:
        pairs = raw_memory.int32_at(address, size // 2)
        amx_products.load_queries(pairs, queries, at[0], at[1], at[2], G, D, stride)
    elif _reads_in_place(args, tile):
        pairs = raw_memory.int32_at(address, size // 2)
        bf16_dot_products.load_queries(pairs, queries, at[0], at[1], at[2], D, stride)
    elif args[arguments.IS_FLOAT32]:
        q32 = raw_memory.float32_at(address, size)
        row_softmax.load_queries(q32, queries, at[0], at[1], at[2], G, D, stride, scale)
    else:
        q16 = raw_memory.bfloat16_at(address, size)
        row_softmax.load_queries(q16, queries, at[0], at[1], at[2], G, D, stride, scale)


@spliced
def _write_out(args, tile, run):  # type: ignore[no-untyped-def]
    address, H, D = args[arguments.OUT], args[arguments.H], args[arguments.D]
    size, G, rows = args[arguments.T] * H * D, H // args[arguments.K], args[arguments.ROWS]
    at = (tile.first_row, tile.num_rows, tile.head)
    if args[arguments.IS_FLOAT32]:
        out32 = raw_memory.float32_at(address, size)
        row_softmax.write_out(out32, run, at[0], at[1], at[2], H, G, D, rows)
    else:
        out16 = raw_memory.bfloat16_at(address, size)
        row_softmax.write_out(out16, run, at[0], at[1], at[2], H, G, D, rows)


@inlined
def _fetch_ahead(args, which, table, head, begin, end):  # type: ignore[no-untyped-def]
    size = 4 if args[arguments.IS_FLOAT32] else 2
    P, D, stride = args[arguments.P], args[arguments.D], args[arguments.BLOCK_STRIDE]
    to = min(end, begin + KEYS)
    packing.fetch_ahead(args[which], size, table, begin, to, head, stride, P, D)


@spliced
def _score_span(args, tile, table, scratch, begin, end):  # type: ignore[no-untyped-def]
    """Scores of the tile's rows for positions begin .. end, to scratch.weights."""
    address, size, D = args[arguments.K_CACHE], args[arguments.CACHE_SIZE], args[arguments.D]
    softcap = raw_memory.float32_of_bits(args[arguments.SOFTCAP])
    seen = max(0, tile.first - begin)
    for first in range(seen // KEYS * KEYS, end - begin, KEYS):
        ahead = begin + first + KEYS
        if ahead < end:
            _fetch_ahead(args, arguments.K_CACHE, table, tile.head, ahead, end)
        else:
            _fetch_ahead(args, arguments.V_CACHE, table, tile.head, begin + seen, end)
        count = min(KEYS, end - begin - first)
        if args[arguments.IS_FLOAT32]:
            k32 = raw_memory.float32_at(address, size)
            packing.pack_keys(k32, scratch.starts, first, count, scratch.packed, D)
        else:
            k16 = raw_memory.bfloat16_at(address, size)
            packing.pack_keys_bfloat16(k16, scratch.starts, first, count, scratch.packed, D)
        row_softmax.score(scratch.queries, scratch.packed, scratch.weights, first, tile.num_rows, D)
        if softcap > np.float32(0.0):
            row_softmax.cap(scratch.weights, first, KEYS, softcap, tile.num_rows)


@spliced
def _weigh_span(args, tile, table, scratch, begin, end):  # type: ignore[no-untyped-def]
    """Values of positions begin .. end times the weights of the tile's rows, to scratch.part."""
    address, size, D = args[arguments.V_CACHE], args[arguments.CACHE_SIZE], args[arguments.D]
    G = args[arguments.H] // args[arguments.K]
    part, packed, rows = scratch.part, scratch.packed, tile.num_rows
    row_softmax.clear(part, rows * ((D + 15) // 16 * 16))
    window = args[arguments.WINDOW]
    seen = max(0, tile.first - begin)
    for first in range(seen // KEYS * KEYS, end - begin, KEYS):
        ahead = begin + first + KEYS
        if ahead < end:
            _fetch_ahead(args, arguments.V_CACHE, table, tile.head, ahead, end)
        elif end < tile.end:
            _fetch_ahead(args, arguments.K_CACHE, table, tile.head, end, tile.end)
        count = min(KEYS, end - begin - first)
        if args[arguments.IS_FLOAT32]:
            v32 = raw_memory.float32_at(address, size)
            packing.pack_values(v32, scratch.starts, first, count, packed, D)
        else:
            v16 = raw_memory.bfloat16_at(address, size)
            packing.pack_values(v16, scratch.starts, first, count, packed, D)
        sees = tile.sees - begin - first
        row_softmax.weigh(scratch.weights, packed, part, first, count, sees, window, rows, G, D)


@spliced
def _run_in_place(args, tile, table, scratch, begin, end):  # type: ignore[no-untyped-def]
    """The span begin .. end of a tile's rows, to scratch.part: bfloat16, read where it lies."""
    size, P, D = args[arguments.CACHE_SIZE], args[arguments.P], args[arguments.D]
    rows, stride = args[arguments.ROWS], args[arguments.BLOCK_STRIDE]
    G, window = args[arguments.H] // args[arguments.K], args[arguments.WINDOW]
    softcap = raw_memory.float32_of_bits(args[arguments.SOFTCAP])
    scale = raw_memory.float32_of_bits(args[arguments.SCALE])
    k16 = raw_memory.bfloat16_at(args[arguments.K_CACHE], size)
    v16 = raw_memory.bfloat16_at(args[arguments.V_CACHE], size)
    num_keys, sees, seen = end - begin, tile.sees - begin, max(0, tile.first - begin)
    starts, ahead, num_rows = scratch.starts, scratch.ahead, tile.num_rows
    amx_products.locate_pieces(starts, table, begin, seen, num_keys, tile.head, stride, P, D)
    pieces = (num_keys + 15) // 16
    for piece in range(pieces):  # while keys are multiplied, the values are fetched
        ahead[piece] = args[arguments.V_CACHE] + 2 * starts[piece]
    first = seen // 32 * 32
    by_tiles = args[arguments.USES_TILES] != 0
    if by_tiles:
        amx_products.score(k16, scratch, first, num_keys, ahead, num_rows, D, scale)
    else:
        bf16_dot_products.score(k16, scratch, first, num_keys, ahead, num_rows, D, scale)
    if softcap > np.float32(0.0):
        row_softmax.cap(scratch.weights, first, num_keys - first, softcap, num_rows)
    row_softmax.soften(scratch.weights, scratch.part, sees, window, num_rows, G, rows * D, rows)
    for piece in range(pieces):  # while values are weighed, the keys of the next span
        position = min(end + 16 * piece, tile.end - 1) // 16 * 16
        start = table[position // P] * stride + (tile.head * P + position % P) * D
        ahead[piece] = args[arguments.K_CACHE] + 2 * start
    if not by_tiles:
        bf16_dot_products.weigh(v16, scratch, seen, num_keys, ahead, num_rows, D)
        return
    amx_products.pair_values(v16, scratch, first, seen, num_keys, ahead, D)
    amx_products.split_weights(scratch, first, num_keys, sees, window, num_rows, G)
    amx_products.weigh(scratch, first, num_keys, num_rows, D)


@inlined
def _take_grouped(item, tile, scratch, span, width, rows):  # type: ignore[no-untyped-def]
    """Take the sums of a span that was computed for a group of sequences; whether it was."""
    for level in range(NUM_LEVELS):
        at = GROUP + level * LEVEL_COLUMNS
        if item[at + 2] <= span < item[at + 3]:
            start = (item[at] + span - item[at + 2]) * rows * (width + 2)
            stored, row = scratch.stored, item[at + 1]
            row_softmax.take_rows(scratch.part, stored, start, row, tile.num_rows, width, rows)
            return True
    return False


@spliced
def _run_spans(args, item, tile, scratch):  # type: ignore[no-untyped-def]
    """Sum up the item's spans: into scratch.run, or each to its place in scratch.stored."""
    P, D, stride = args[arguments.P], args[arguments.D], args[arguments.BLOCK_STRIDE]
    M, rows, G = args[arguments.M], args[arguments.ROWS], args[arguments.H] // args[arguments.K]
    window = args[arguments.WINDOW]
    width = (D + 15) // 16 * 16
    tables = raw_memory.int32_at(args[arguments.TABLES], args[arguments.S] * M)
    table = tables[tile.seq * M : (tile.seq + 1) * M]
    for span in range(item[FIRST_SPAN], item[END_SPAN]):
        begin = span * SPAN
        end = min(begin + SPAN, tile.end)
        if _take_grouped(item, tile, scratch, span, width, rows):
            pass
        elif _reads_in_place(args, tile):
            _run_in_place(args, tile, table, scratch, begin, end)
        else:
            seen = max(0, tile.first - begin)
            starts, head = scratch.starts, tile.head
            packing.locate_keys(starts, table, begin, seen, end - begin, head, stride, P, D)
            _score_span(args, tile, table, scratch, begin, end)
            sees, at = tile.sees - begin, rows * width
            weights, num_rows = scratch.weights, tile.num_rows
            row_softmax.soften(weights, scratch.part, sees, window, num_rows, G, at, rows)
            _weigh_span(args, tile, table, scratch, begin, end)
        is_first = span == item[BASE_SPAN]
        if item[PARTIAL] < 0:
            row_softmax.merge(scratch.run, scratch.part, 0, is_first, tile.num_rows, width, rows)
        else:
            to = (item[PARTIAL] + span - item[BASE_SPAN]) * rows * (width + 2)
            row_softmax.copy(scratch.stored, to, scratch.part, tile.num_rows, width, rows)


@spliced
def _merge_stored(args, item, tile, scratch):  # type: ignore[no-untyped-def]
    """Merge the spans of a tile that was cut, if this item is the last; whether it is."""
    finished = raw_memory.int64_at(args[arguments.FINISHED], args[arguments.NUM_FINISHED])
    rows, width = args[arguments.ROWS], (args[arguments.D] + 15) // 16 * 16
    spans = item[END_SPAN] - item[FIRST_SPAN]
    if raw_memory.fetch_add(finished, item[TILE], spans) + spans < item[NUM_SPANS]:
        return False
    for span in range(item[NUM_SPANS]):
        start = (item[PARTIAL] + span) * rows * (width + 2)
        row_softmax.merge(scratch.run, scratch.stored, start, span == 0, tile.num_rows, width, rows)
    return True


@worker
def run_items(args):  # type: ignore[no-untyped-def]
    """Take items of the work list until none is left."""
    scratch = arguments.scratch_of(args)
    items = raw_memory.int64_at(args[arguments.ITEMS], args[arguments.NUM_ITEMS] * NUM_COLUMNS)
    if args[arguments.USES_TILES]:
        amx.configure(scratch.saved)
    while True:
        number = raw_memory.fetch_add(args, arguments.NEXT_ITEM, 1)
        if number >= args[arguments.NUM_ITEMS]:
            break
        item = items[number * NUM_COLUMNS : (number + 1) * NUM_COLUMNS]
        tile = _tile_of(args, item)
        _load_queries(args, tile, scratch.queries)
        _run_spans(args, item, tile, scratch)
        if item[SEES] > 0:
            continue  # the sequences of the group merge what was stored
        if item[PARTIAL] < 0 or _merge_stored(args, item, tile, scratch):
            _write_out(args, tile, scratch.run)
    if args[arguments.USES_TILES]:
        amx.restore(scratch.saved)
