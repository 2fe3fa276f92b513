"""What there is to do in one step, cut into items of even cost; the same for all layers.

A tile is some consecutive queries of one sequence under one kv head: its rows are those queries
times the G = H // K heads that share the kv head, so that KV that was fetched serves all of them.
An item is a tile, or where a tile alone would keep a thread busy after the others have finished,
some spans of it; then each span's partial result is stored and the item that comes last merges.
How work is cut changes no bits, but for bfloat16 without matrix tiles, where single queries have
arithmetic of their own: it is by row and span.

Where sequences of a decode step share blocks, whole spans of them are computed first, by items
whose rows are the queries of several sequences; each sequence's own tile then takes its rows' sums
from there. Every group pays off: its sequences would each fetch the same KV.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from thothy_kernels.numba_simd.functions import kernel
from thothy_kernels.paged_attention import SPAN, AttentionMetadata
from thothy_kernels.paged_attention.prefix_groups import check_tables

# No context is longer than this.
NO_WINDOW = 1 << 40

# Rows of a tile: enough that packing KV is a few percent, few enough for the level 2 cache.
TILE_ROWS = 64
# Work of a tile beside its rows, in rows: fetching, widening and transposing KV.
_PACKING = 6
# Items per thread, at least, where the work can be cut: bounds what a thread waits at the end.
_ITEMS_PER_THREAD = 8

# Columns of the item table.
SEQ, HEAD, FIRST_QUERY, NUM_QUERIES, FIRST_SPAN, END_SPAN, PARTIAL, TILE, NUM_SPANS = range(9)
BASE_SPAN, SEES = 9, 10  # first span of the tile; of a group's item: where its positions end
# Per level of groups: first stored span, first row in it, first and last span taken from there.
GROUP, LEVEL_COLUMNS, NUM_LEVELS = 11, 4, 2
NUM_COLUMNS = GROUP + LEVEL_COLUMNS * NUM_LEVELS


@dataclass(frozen=True, slots=True)
class WorkList:
    """Items int64 [n, NUM_COLUMNS], and what they need."""

    items: np.ndarray
    group_items: np.ndarray  # to be computed before the others
    num_partials: int  # stored spans of all groups and of tiles that are cut
    num_cut_tiles: int
    cost: int  # rows times positions


def work_list(
    meta: AttentionMetadata, shape: tuple[int, int, int, int], num_threads: int
) -> WorkList:
    """Cut the step's work. shape: H, K, P and B. Raises ValueError for a bad block table."""
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
    num_tiles, num_spans, cost, longest, bad_seq = (int(size) for size in sizes)
    if bad_seq:
        tokens = int(context[bad_seq - 1])
        raise ValueError(
            f"paged_attention: sequence {bad_seq - 1} has a context of {tokens} tokens and needs "
            f"{-(-tokens // P)} block ids within 0 .. {B - 1} in its row of block_tables"
        )
    most = cost // (num_threads * _ITEMS_PER_THREAD) if num_threads > 1 else cost
    cuts = longest > most
    items = np.empty((num_spans if cuts else num_tiles, NUM_COLUMNS), np.int64)
    used = np.array((0, first_partial, 0), np.int64)
    _fill(cu, context, levels, H, K, window, max(most, 1), items, used)
    num_items, num_partials, num_cut_tiles = (int(size) for size in used)
    return WorkList(items[:num_items], group_items, num_partials, num_cut_tiles, cost)


class _Groups:
    """The groups of a step, as far as they share whole spans."""

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
        """Items of all groups and the number of stored spans; notes in `levels` [S, 2, 4] where
        each sequence finds its sums under the first head."""
        total = sum(self._num_queries(first, end) * (b - a) for first, end, a, b in self.spans)
        most = max(1, total // (num_threads * _ITEMS_PER_THREAD))
        rows, partial = [], 0
        for first, end, begin, stop in self.spans:
            num_spans = stop - begin
            for seq, behind in self._tiles(first, end, max(1, TILE_ROWS // G)):
                num = self._num_queries(seq, behind)
                step = max(1, min(num_spans, most // num)) if num_threads > 1 else num_spans
                for member in range(seq, behind):
                    free = 0 if levels[member, 0, 3] == 0 else 1
                    row = self._num_queries(seq, member) * G
                    levels[member, free] = (partial, row, begin, stop)
                for head in range(K):
                    for span in range(begin, stop, step):
                        item = np.zeros(NUM_COLUMNS, np.int64)
                        item[:GROUP] = (
                            *(seq, head, 0, num, span, min(span + step, stop)),
                            *(partial, -1, num_spans, begin, stop * SPAN),
                        )
                        rows.append(item)
                    partial += num_spans
        return np.array(rows, np.int64).reshape(-1, NUM_COLUMNS), partial

    def _num_queries(self, first: int, end: int) -> int:
        return int(self._rows[end] - self._rows[first])

    def _tiles(self, first: int, end: int, queries: int) -> Iterator[tuple[int, int]]:
        """Members first .. end by as many as fit a tile of so many queries. Who has more queries
        alone is left out."""
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
    """sizes: tiles, spans of all tiles, cost, cost of the costliest tile, bad sequence + 1."""
    G = H // K
    queries = max(1, TILE_ROWS // G)
    for seq in range(len(context)):
        n = cu[seq + 1] - cu[seq]
        if n == 0:
            continue
        needed = (context[seq] + P - 1) // P
        good = needed <= tables.shape[1]
        if good:
            for i in range(max(0, context[seq] - n + 1 - window) // P, needed):
                if tables[seq, i] < 0 or tables[seq, i] >= B:
                    good = False
        if not good:
            sizes[4] = seq + 1
            return
        for first in range(0, n, queries):
            num_queries = min(queries, n - first)
            visible = context[seq] - n + first + num_queries
            unseen = max(0, visible - num_queries + 1 - window)
            grouped = 0
            for level in range(NUM_LEVELS):
                grouped += SPAN * (levels[seq, level, 3] - levels[seq, level, 2])
            cost = (num_queries * G + _PACKING) * (visible - unseen - grouped)
            sizes[0] += K
            sizes[1] += K * ((visible + SPAN - 1) // SPAN - unseen // SPAN)
            sizes[2] += K * cost
            sizes[3] = max(sizes[3], cost)


@kernel(
    "void(int32[::1], int32[::1], int64[:, :, ::1], int64, int64, int64, int64, int64[:, ::1], "
    "int64[::1])"
)
def _fill(cu, context, levels, H, K, window, most, items, used):  # type: ignore[no-untyped-def]
    """Write items of at most about `most` cost; used: items, stored spans, tiles that are cut."""
    G = H // K
    queries = max(1, TILE_ROWS // G)
    for seq in range(len(context)):
        n = cu[seq + 1] - cu[seq]
        for first in range(0, n, queries):
            num_queries = min(queries, n - first)
            visible = context[seq] - n + first + num_queries
            unseen = max(0, visible - num_queries + 1 - window)
            base, last = unseen // SPAN, (visible + SPAN - 1) // SPAN
            spans, grouped = last - base, 0
            for level in range(NUM_LEVELS):
                grouped += SPAN * (levels[seq, level, 3] - levels[seq, level, 2])
            cost = (num_queries * G + _PACKING) * (visible - unseen - grouped)
            step = spans if cost <= most else max(1, spans * most // cost)
            for head in range(K):
                for begin in range(base, last, step):
                    item = items[used[0]]
                    item[SEQ], item[HEAD] = seq, head
                    item[FIRST_QUERY], item[NUM_QUERIES] = first, num_queries
                    item[FIRST_SPAN], item[END_SPAN] = begin, min(begin + step, last)
                    item[PARTIAL] = used[1] if step < spans else -1
                    item[TILE], item[NUM_SPANS] = used[2], spans
                    item[BASE_SPAN], item[SEES] = base, 0
                    for level in range(NUM_LEVELS):
                        at = GROUP + level * LEVEL_COLUMNS
                        num_spans = levels[seq, level, 3] - levels[seq, level, 2]
                        item[at] = levels[seq, level, 0] + head * num_spans
                        for column in range(1, LEVEL_COLUMNS):
                            item[at + column] = levels[seq, level, column]
                    used[0] += 1
                if step < spans:
                    used[1] += spans
                    used[2] += 1
