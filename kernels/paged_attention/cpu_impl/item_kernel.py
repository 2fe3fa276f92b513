"""Computes items of the work list: a tile of queries against spans of KV, in any of the `forms`."""

from collections import namedtuple

from thothy_kernels.numba_simd import raw_memory
from thothy_kernels.numba_simd.functions import inlined
from thothy_kernels.paged_attention import SPAN
from thothy_kernels.paged_attention.cpu_impl import row_softmax
from thothy_kernels.paged_attention.cpu_impl.arguments import ARG
from thothy_kernels.paged_attention.cpu_impl.work_list import (
    COLUMN,
    FIRST_LEVEL,
    LEVEL,
    LEVEL_COLUMNS,
    NUM_COLUMNS,
    NUM_LEVELS,
)

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


@inlined
def _run_spans(args, item, tile, scratch, run_span):  # type: ignore[no-untyped-def]
    """Compute the item's spans: merged into scratch.run, or each stored to scratch.stored."""
    M, rows = args[ARG.M], args[ARG.tile_rows]
    width = (args[ARG.D] + 15) // 16 * 16
    tables = raw_memory.int32_at(args[ARG.block_tables], args[ARG.S] * M)
    table = tables[tile.seq * M : (tile.seq + 1) * M]
    for span in range(item[COLUMN.first_span], item[COLUMN.end_span]):
        if not _load_grouped(item, tile, scratch, span, width, rows):
            begin = span * SPAN
            run_span(args, tile, table, scratch, begin, min(begin + SPAN, tile.end))
        is_first = span == item[COLUMN.base_span]
        if item[COLUMN.partial] < 0:
            row_softmax.merge(scratch.run, scratch.part, 0, is_first, tile.num_rows, width, rows)
        else:
            to = (item[COLUMN.partial] + span - item[COLUMN.base_span]) * rows * (width + 2)
            row_softmax.copy(scratch.stored, to, scratch.part, tile.num_rows, width, rows)


@inlined
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


@inlined
def run_items(args, scratch, load_queries, run_span, write_out):  # type: ignore[no-untyped-def]
    """Compute items of the work list until none is left; see `arguments.Arguments`.

    The functions are those of a form, see `forms`.
    """
    items = raw_memory.int64_at(args[ARG.items], args[ARG.num_items] * NUM_COLUMNS)
    while True:
        number = raw_memory.fetch_add(args, ARG.next_item, 1)
        if number >= args[ARG.num_items]:
            return
        item = items[number * NUM_COLUMNS : (number + 1) * NUM_COLUMNS]
        tile = _tile_of(args, item)
        load_queries(args, tile, scratch.queries)
        _run_spans(args, item, tile, scratch, run_span)
        if item[COLUMN.visible_end] > 0:
            continue  # the tiles of the group's sequences merge the stored spans
        if item[COLUMN.partial] < 0 or _merge_stored(args, item, tile, scratch):
            write_out(args, tile, scratch.run)
