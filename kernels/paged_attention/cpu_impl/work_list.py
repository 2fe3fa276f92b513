"""Work list of one step: items of even cost for the threads; the same for all layers.

A tile is some consecutive queries of one sequence under one kv head. Its rows are those queries
times the G = H // K query heads that share the kv head, so one read of KV serves all of them. An
item is a tile, or some spans of a tile that alone would keep one thread busy after the others have
finished: then each span's partial result is stored, and the last item of the tile merges them.
Arithmetic goes by row and span, so the cut changes no bits, except for bfloat16 without AMX, where
single queries use other instructions.

Spans of blocks that sequences of a decode step share are computed first, by group items whose rows
are the queries of several sequences. Each sequence's own tile then reads its rows' sums from there.
Every group pays off, because its sequences would each read the same KV.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from thothy_kernels.numba_simd.arguments import indices_of
from thothy_kernels.numba_simd.functions import Compiled, inlined, kernel
from thothy_kernels.paged_attention import SPAN, AttentionMetadata
from thothy_kernels.paged_attention.prefix_groups import check_tables

# Longer than any context.
NO_WINDOW = 1 << 40

# Rows of a tile: enough that packing KV is a few percent, few enough for the level 2 cache.
TILE_ROWS = 64
# Cost of a tile beside its rows, in rows: reading, converting and transposing KV.
_PACKING = 6
# Least items per thread where the work can be cut: bounds the idle time at the end of a step.
_ITEMS_PER_THREAD = 8


class Item(NamedTuple):
    """First columns of the item table; `GroupLevel` columns follow, NUM_LEVELS times."""

    seq: int  # of a group item: the first sequence
    head: int  # kv head
    first_query: int
    num_queries: int
    first_span: int
    end_span: int
    partial: int  # stored span of the tile's first span; -1: spans are merged, not stored
    tile: int  # number among the tiles that are cut; -1 in a group item
    num_spans: int  # spans of the whole tile
    base_span: int  # first span of the whole tile
    visible_end: int  # of a group item: the end of its positions; 0: not a group item


class GroupLevel(NamedTuple):
    """Spans of a tile that a group item computes. A sequence is in at most NUM_LEVELS groups."""

    partial: int  # stored span of the group's first span
    first_row: int  # the tile's first row within the group's rows
    first_span: int
    end_span: int


COLUMN, LEVEL = indices_of(Item), indices_of(GroupLevel)
NUM_LEVELS, LEVEL_COLUMNS = 2, len(LEVEL)
FIRST_LEVEL = len(COLUMN)
NUM_COLUMNS = FIRST_LEVEL + LEVEL_COLUMNS * NUM_LEVELS


@dataclass(frozen=True, slots=True)
class WorkList:
    """Items of a step, int64 [n, NUM_COLUMNS], and the memory that they need."""

    items: np.ndarray
    group_items: np.ndarray  # computed before the others
    launches: tuple[tuple[int, int], ...]  # (items, address) of both tables, without empty ones
    num_partials: int  # stored spans of all groups and of tiles that are cut
    num_cut_tiles: int
    cost: int  # rows times positions


def work_list(
    meta: AttentionMetadata, shape: tuple[int, int, int, int], num_threads: int
) -> WorkList:
    """Cut a step into items. shape is (H, K, P, B). Raises ValueError for a bad block table."""
    H, K, P, B = shape
    cu, context, tables = (
        meta.cu_seqlens.numpy(),
        meta.context_lens.numpy(),
        meta.block_tables.numpy(),
    )
    window = NO_WINDOW if meta.window is None else meta.window
    groups = _Groups(meta, tables, P) if meta.window is None else None
    levels = np.zeros((len(context), NUM_LEVELS, LEVEL_COLUMNS), np.int64)
    group_items = np.empty((0, NUM_COLUMNS), np.int64)
    first_partial = 0
    if groups is not None and groups.spans:
        group_items, first_partial = groups.items(H // K, K, num_threads, levels)
    sizes = np.zeros(5, np.int64)
    _measure(cu, context, tables, levels, H, K, P, B, window, sizes)
    num_tiles, num_spans, cost, highest, bad_seq = (int(size) for size in sizes)
    if bad_seq:
        tokens = int(context[bad_seq - 1])
        raise ValueError(
            f"paged_attention: sequence {bad_seq - 1} has a context of {tokens} tokens and needs "
            f"{-(-tokens // P)} block ids within 0 .. {B - 1} in its row of block_tables"
        )
    most = cost // (num_threads * _ITEMS_PER_THREAD) if num_threads > 1 else cost
    is_cut = highest > most
    items = np.empty((num_spans if is_cut else num_tiles, NUM_COLUMNS), np.int64)
    used = np.array((0, first_partial, 0), np.int64)
    _fill(cu, context, levels, H, K, window, max(most, 1), items, used)
    num_items, num_partials, num_cut_tiles = (int(size) for size in used)
    items = items[:num_items]
    launches = tuple((len(part), part.ctypes.data) for part in (group_items, items) if len(part))
    return WorkList(items, group_items, launches, num_partials, num_cut_tiles, cost)


class _Groups:
    """Groups of a step that share whole spans."""

    def __init__(self, meta: AttentionMetadata, tables: np.ndarray, block_size: int) -> None:
        self.spans: list[tuple[int, int, int, int]] = []  # first sequence, end, first span, end
        if meta.shared is None or not len(meta.shared):
            return
        shared = meta.shared.numpy()
        check_tables(shared, tables, block_size)
        self._rows = meta.cu_seqlens.numpy()
        for first, end, start, stop in shared.tolist():
            first_span, end_span = -(-start // SPAN), stop // SPAN
            if end_span > first_span and end - first > 1:
                self.spans.append((first, end, first_span, end_span))

    def items(self, G: int, K: int, num_threads: int, levels: np.ndarray) -> tuple[np.ndarray, int]:
        """(items of all groups, number of stored spans). Writes each sequence's GroupLevels for the
        first kv head to levels [S, NUM_LEVELS, LEVEL_COLUMNS]."""
        total = sum(self._num_queries(first, end) * (b - a) for first, end, a, b in self.spans)
        most = max(1, total // (num_threads * _ITEMS_PER_THREAD))
        rows, partial = [], 0
        for first, end, begin, stop in self.spans:
            num_spans = stop - begin
            for seq, behind in self._tiles(first, end, max(1, TILE_ROWS // G)):
                num = self._num_queries(seq, behind)
                step = max(1, min(num_spans, most // num)) if num_threads > 1 else num_spans
                for member in range(seq, behind):
                    free = 0 if levels[member, 0, LEVEL.end_span] == 0 else 1
                    row = self._num_queries(seq, member) * G
                    levels[member, free] = GroupLevel(
                        partial=partial, first_row=row, first_span=begin, end_span=stop
                    )
                for head in range(K):
                    for span in range(begin, stop, step):
                        item = np.zeros(NUM_COLUMNS, np.int64)
                        item[:FIRST_LEVEL] = Item(
                            seq=seq,
                            head=head,
                            first_query=0,
                            num_queries=num,
                            first_span=span,
                            end_span=min(span + step, stop),
                            partial=partial,
                            tile=-1,
                            num_spans=num_spans,
                            base_span=begin,
                            visible_end=stop * SPAN,
                        )
                        rows.append(item)
                    partial += num_spans
        return np.array(rows, np.int64).reshape(-1, NUM_COLUMNS), partial

    def _num_queries(self, first: int, end: int) -> int:
        return int(self._rows[end] - self._rows[first])

    def _tiles(self, first: int, end: int, queries: int) -> Iterator[tuple[int, int]]:
        """(first, end) of runs of members first .. end whose queries fit one tile. A member with
        more queries than a tile is left out."""
        seq = first
        while seq < end:
            behind = seq + 1
            while behind < end and self._num_queries(seq, behind + 1) <= queries:
                behind += 1
            if self._num_queries(seq, behind) <= queries:
                yield seq, behind
            seq = behind


@kernel(
    "void(int32[::1], int32[::1], int32[:, ::1], int64[:, :, ::1], int64, int64, int64, int64, "
    "int64, int64[::1])"
)
def _measure(cu, context, tables, levels, H, K, P, B, window, sizes):  # type: ignore[no-untyped-def]
    """Write sizes: tiles, their spans, their cost, the highest cost of one, bad sequence + 1."""
    G = H // K
    queries = max(1, TILE_ROWS // G)
    for seq in range(len(context)):
        n = cu[seq + 1] - cu[seq]
        if n == 0:
            continue
        needed = (context[seq] + P - 1) // P
        is_valid = needed <= tables.shape[1]
        if is_valid:
            for i in range(max(0, context[seq] - n + 1 - window) // P, needed):
                if tables[seq, i] < 0 or tables[seq, i] >= B:
                    is_valid = False
        if not is_valid:
            sizes[4] = seq + 1
            return
        for first in range(0, n, queries):
            num_queries = min(queries, n - first)
            end = context[seq] - n + first + num_queries
            begin = max(0, end - num_queries + 1 - window)
            grouped = 0
            for level in range(NUM_LEVELS):
                spans = levels[seq, level, LEVEL.end_span] - levels[seq, level, LEVEL.first_span]
                grouped += SPAN * spans
            cost = (num_queries * G + _PACKING) * (end - begin - grouped)
            sizes[0] += K
            sizes[1] += K * ((end + SPAN - 1) // SPAN - begin // SPAN)
            sizes[2] += K * cost
            sizes[3] = max(sizes[3], cost)


@inlined
def _copy_levels(item, levels, head):  # type: ignore[no-untyped-def]
    """Copy a sequence's GroupLevels to its item, with the stored spans of one kv head."""
    for level in range(NUM_LEVELS):
        at = FIRST_LEVEL + level * LEVEL_COLUMNS
        for column in range(LEVEL_COLUMNS):
            item[at + column] = levels[level, column]
        num_spans = levels[level, LEVEL.end_span] - levels[level, LEVEL.first_span]
        item[at + LEVEL.partial] += head * num_spans


@kernel(
    "void(int32[::1], int32[::1], int64[:, :, ::1], int64, int64, int64, int64, int64[:, ::1], "
    "int64[::1])"
)
def _fill(cu, context, levels, H, K, window, most, items, used):  # type: ignore[no-untyped-def]
    """Write items that cost about `most` or less; count items, stored spans and cut tiles in
    used."""
    G = H // K
    queries = max(1, TILE_ROWS // G)
    for seq in range(len(context)):
        n = cu[seq + 1] - cu[seq]
        for first in range(0, n, queries):
            num_queries = min(queries, n - first)
            end = context[seq] - n + first + num_queries
            begin = max(0, end - num_queries + 1 - window)
            base, last = begin // SPAN, (end + SPAN - 1) // SPAN
            spans, grouped = last - base, 0
            for level in range(NUM_LEVELS):
                shared = levels[seq, level, LEVEL.end_span] - levels[seq, level, LEVEL.first_span]
                grouped += SPAN * shared
            cost = (num_queries * G + _PACKING) * (end - begin - grouped)
            step = spans if cost <= most else max(1, spans * most // cost)
            for head in range(K):
                for span in range(base, last, step):
                    item = items[used[0]]
                    item[COLUMN.seq], item[COLUMN.head] = seq, head
                    item[COLUMN.first_query], item[COLUMN.num_queries] = first, num_queries
                    item[COLUMN.first_span], item[COLUMN.end_span] = span, min(span + step, last)
                    item[COLUMN.partial] = used[1] if step < spans else -1
                    item[COLUMN.tile], item[COLUMN.num_spans] = used[2], spans
                    item[COLUMN.base_span], item[COLUMN.visible_end] = base, 0
                    _copy_levels(item, levels[seq], head)
                    used[0] += 1
                if step < spans:
                    used[1] += spans
                    used[2] += 1


WORK_LIST_KERNELS: tuple[Compiled, ...] = (_measure, _fill)
