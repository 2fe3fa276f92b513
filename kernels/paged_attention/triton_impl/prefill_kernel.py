"""Prefill attention of prompt chunks over paged KV (Triton).

A program computes a tile of BLOCK_M rows: QUERIES consecutive queries of one sequence times the G
heads that share a kv head, so that a tile of KV serves all of them. It iterates over positions that
are visible to any of its rows: without a mask where all rows attend, with one at both ends. KV of
the step itself has been written before, so cached prefixes and new tokens are read alike.
"""

import triton
import triton.language as tl

from thothy_kernels.paged_attention.triton_impl.online_softmax import (
    add_tile,
    empty_state,
    load_kv,
    result_of,
    scores_of,
)


@triton.jit
def _walk(  # type: ignore[no-untyped-def]
    state, q, k_cache, v_cache, table, head, row_positions, begin, end,
    visible_begin, visible_end, scale, softcap, window, block_stride,
    P: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr, TILE: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr, HAS_WINDOW: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """The state after tiles from position `begin` to `end`. Reads only visible_begin ..
    visible_end, the positions that any row attends to."""
    for start in tl.range(begin, end, TILE):
        positions = start + tl.arange(0, TILE)
        inside = positions < visible_end
        if HAS_WINDOW:
            inside = inside & (positions >= visible_begin)
        k = load_kv(k_cache, table, positions, inside, head, block_stride, P, D, WIDTH)
        scores = scores_of(q, k, scale, softcap, HAS_SOFTCAP)
        if MASKED:
            visible = inside[None, :] & (positions[None, :] <= row_positions[:, None])
            if HAS_WINDOW:
                visible = visible & (positions[None, :] > row_positions[:, None] - window)
            scores = tl.where(visible, scores, float("-inf"))
        v = load_kv(v_cache, table, positions, inside, head, block_stride, P, D, WIDTH)
        state = add_tile(state, scores, v, HAS_WINDOW)
    return state


@triton.jit(do_not_specialize=["table_stride", "window"])
def prefill_kernel(  # type: ignore[no-untyped-def]
    q, k_cache, v_cache, out, tiles, cu_seqlens, context_lens, block_tables,
    q_stride, block_stride, table_stride, scale, softcap, window,
    K: tl.constexpr, G: tl.constexpr, P: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr,
    BLOCK_M: tl.constexpr, QUERIES: tl.constexpr, TILE: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr, HAS_WINDOW: tl.constexpr,
):  # fmt: skip
    """Compute one tile of tiles int32 [N, 2] (sequence, first query) under one kv head."""
    head = tl.program_id(0) % K
    tile = tl.program_id(0) // K
    seq = tl.load(tiles + 2 * tile)
    first_query = tl.load(tiles + 2 * tile + 1)
    first_row = tl.load(cu_seqlens + seq)
    num_queries = tl.load(cu_seqlens + seq + 1) - first_row
    first_position = tl.load(context_lens + seq) - num_queries  # of the sequence's first query
    table = block_tables + seq.to(tl.int64) * table_stride

    rows = tl.arange(0, BLOCK_M)
    queries = first_query + rows // G
    row_mask = (rows < QUERIES * G) & (queries < num_queries)
    row_positions = first_position + queries
    offs_d = tl.arange(0, WIDTH)
    mask = row_mask[:, None] & (offs_d < D)[None, :]
    token = (first_row + queries).to(tl.int64)
    q_heads = head * G + rows % G
    q_tile = tl.load(
        q + (token * q_stride + q_heads * D)[:, None] + offs_d[None, :], mask=mask, other=0.0
    )

    # Every row attends to positions below all_end, unless they are outside its window.
    visible_end = first_position + tl.minimum(first_query + QUERIES, num_queries)
    all_end = (first_position + first_query + 1) // TILE * TILE
    visible_begin = 0
    begin = 0
    unmasked = 0
    if HAS_WINDOW:
        visible_begin = tl.maximum(first_position + first_query + 1 - window, 0)
        begin = visible_begin // TILE * TILE
        unmasked = tl.cdiv(tl.maximum(visible_end - window, 0), TILE) * TILE
        all_end = tl.maximum(all_end, begin)
        unmasked = tl.minimum(tl.maximum(unmasked, begin), all_end)

    # Three ranges: partly outside the window, visible to all rows, not yet visible to some.
    state = empty_state(BLOCK_M, WIDTH)
    edges = (begin, unmasked, all_end, visible_end)
    for walk in tl.static_range(0 if HAS_WINDOW else 1, 3):
        state = _walk(
            state, q_tile, k_cache, v_cache, table, head, row_positions, edges[walk],
            edges[walk + 1], visible_begin, visible_end, scale, softcap, window, block_stride,
            P, D, WIDTH, TILE, HAS_SOFTCAP, HAS_WINDOW, walk != 1,
        )  # fmt: skip
    result = result_of(state)
    at = (token * (K * G) + q_heads) * D
    tl.store(out + at[:, None] + offs_d[None, :], result.to(out.dtype.element_ty), mask=mask)
