"""What there is to do in one step, cut into items of even cost; the same for all layers.

A tile is some consecutive queries of one sequence under one kv head: its rows are those queries
times the G = H // K heads that share the kv head, so that KV that was fetched serves all of them.
An item is a tile, or where a tile alone would keep a thread busy after the others have finished,
some spans of it; then each span's partial result is stored and the item that comes last merges.
How work is cut changes no bits: the arithmetic is by row and span.
"""

from dataclasses import dataclass

import numpy as np

from thothy_kernels.compiled.functions import kernel
from thothy_kernels.paged_attention import SPAN, AttentionMetadata

# Rows of a tile: enough that packing KV is a few percent, few enough for the level 2 cache.
TILE_ROWS = 64
# Work of a tile beside its rows, in rows: fetching, widening and transposing KV.
_PACKING = 6
# Items per thread, at least, where the work can be cut: bounds what a thread waits at the end.
_ITEMS_PER_THREAD = 8

# Columns of the item table.
SEQ, HEAD, FIRST_QUERY, NUM_QUERIES, FIRST_SPAN, END_SPAN, PARTIAL, TILE, NUM_SPANS = range(9)
NUM_COLUMNS = 9


@dataclass(frozen=True, slots=True)
class WorkList:
    """Items [n, 9] int64 (columns above), and what they need."""

    items: np.ndarray
    num_partials: int  # stored spans of all tiles that are cut
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
    sizes = np.zeros(5, np.int64)
    _measure(cu, context, tables, H, K, P, B, sizes)
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
    used = np.zeros(3, np.int64)
    _fill(cu, context, H, K, max(most, 1), items, used)
    num_items, num_partials, num_cut_tiles = (int(size) for size in used)
    return WorkList(items[:num_items], num_partials, num_cut_tiles, cost)


@kernel("void(int32[::1], int32[::1], int32[:, ::1], int64, int64, int64, int64, int64[::1])")
def _measure(cu, context, tables, H, K, P, B, sizes):  # type: ignore[no-untyped-def]
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
            for i in range(needed):
                if tables[seq, i] < 0 or tables[seq, i] >= B:
                    good = False
        if not good:
            sizes[4] = seq + 1
            return
        for first in range(0, n, queries):
            num_queries = min(queries, n - first)
            visible = context[seq] - n + first + num_queries
            cost = (num_queries * G + _PACKING) * visible
            sizes[0] += K
            sizes[1] += K * ((visible + SPAN - 1) // SPAN)
            sizes[2] += K * cost
            sizes[3] = max(sizes[3], cost)


@kernel("void(int32[::1], int32[::1], int64, int64, int64, int64[:, ::1], int64[::1])")
def _fill(cu, context, H, K, most, items, used):  # type: ignore[no-untyped-def]
    """Write items of at most about `most` cost; used: items, stored spans, tiles that are cut."""
    G = H // K
    queries = max(1, TILE_ROWS // G)
    for seq in range(len(context)):
        n = cu[seq + 1] - cu[seq]
        for first in range(0, n, queries):
            num_queries = min(queries, n - first)
            visible = context[seq] - n + first + num_queries
            spans = (visible + SPAN - 1) // SPAN
            cost = (num_queries * G + _PACKING) * visible
            step = spans if cost <= most else max(1, spans * most // cost)
            for head in range(K):
                for begin in range(0, spans, step):
                    item = items[used[0]]
                    item[SEQ], item[HEAD] = seq, head
                    item[FIRST_QUERY], item[NUM_QUERIES] = first, num_queries
                    item[FIRST_SPAN], item[END_SPAN] = begin, min(begin + step, spans)
                    item[PARTIAL] = used[1] if step < spans else -1
                    item[TILE], item[NUM_SPANS] = used[2], spans
                    used[0] += 1
                if step < spans:
                    used[1] += spans
                    used[2] += 1
