"""Decode attention over paged KV, split evenly over the device (Triton).

Work is one sequence of tiles of TILE positions: head by head, first the chunks (positions that up
to GROUP_ROWS / G sequences share, read once for all of them), then every row's own positions. Each
program computes an equal stretch of it, across row boundaries (Stream-K: Osama et al. 2023,
arXiv:2301.03598), so a long context among short ones leaves no multiprocessor idle. The number of
programs depends on no length: the launch can be replayed while contexts grow.

A piece is the part of one row or chunk that one program computes. A row that is a single piece and
shares nothing is written out at once; all other pieces store their states, which `merge_kernel`
merges. The state of a piece is stored at index (row or chunk under its head) + program. The index
is unique, because each next piece has a higher row or a higher program.
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
def stretch_of(num_tiles, num_programs):  # type: ignore[no-untyped-def]
    """Tiles per program: at least two, so that a program is worth starting."""
    return tl.maximum(tl.cdiv(num_tiles, num_programs), 2)


@triton.jit
def _segment_at(cu_tiles, num_segments, tile):  # type: ignore[no-untyped-def]
    """The segment of `tile`: the last non-empty one that begins at or before it."""
    low = 0
    high = num_segments
    while high - low > 1:
        middle = (low + high) // 2
        if tl.load(cu_tiles + middle) <= tile:
            low = middle
        else:
            high = middle
    return low


@triton.jit
def _store_state(state, to, number, ROWS: tl.constexpr, D: tl.constexpr, rows, row_mask):  # type: ignore[no-untyped-def]
    """Store a piece's state, float32: D values, maximum and sum for each of its ROWS rows."""
    maximum, total, values = state
    WIDTH: tl.constexpr = values.shape[1]
    at = to + (number.to(tl.int64) * ROWS + rows) * (D + 2)
    offs_d = tl.arange(0, WIDTH)
    mask = row_mask[:, None] & (offs_d < D)[None, :]
    tl.store(at[:, None] + offs_d[None, :], values, mask=mask)
    tl.store(at + D, maximum, mask=row_mask)
    tl.store(at + D + 1, total, mask=row_mask)


@triton.jit
def _attend(  # type: ignore[no-untyped-def]
    q_tile, k_cache, v_cache, table, head, begin, stop, offset, skips, end,
    scale, softcap, block_stride,
    P: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr, TILE: tl.constexpr,
    ROWS: tl.constexpr, HAS_SOFTCAP: tl.constexpr, HAS_SKIPS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """State of q_tile's rows over tiles begin .. stop of positions offset .. end.

    skips holds two ranges (first, length) of positions to skip.
    """
    state = empty_state(ROWS, WIDTH)
    for tile in tl.range(begin, stop, num_stages=STAGES):
        positions = offset + tile * TILE + tl.arange(0, TILE)
        if HAS_SKIPS:
            positions += tl.where(positions >= skips[0], skips[1], 0)
            positions += tl.where(positions >= skips[2], skips[3], 0)
        visible = positions < end
        k = load_kv(k_cache, table, positions, visible, head, block_stride, P, D, WIDTH)
        v = load_kv(v_cache, table, positions, visible, head, block_stride, P, D, WIDTH)
        scores = scores_of(q_tile, k, scale, softcap, HAS_SOFTCAP)
        scores = tl.where(visible[None, :], scores, float("-inf"))
        state = add_tile(state, scores, v, False)
    return state


@triton.jit
def _chunk_piece(  # type: ignore[no-untyped-def]
    q, k_cache, v_cache, chunk_states, cu_seqlens, block_tables, row_seqs, chunk, number, head,
    begin, stop, q_stride, block_stride, table_stride, scale, softcap,
    G: tl.constexpr, P: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr,
    GROUP_ROWS: tl.constexpr, TILE: tl.constexpr, HAS_SOFTCAP: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Compute tiles begin .. stop of a chunk under one head, for all its rows."""
    first_row = tl.load(chunk)
    rows = tl.arange(0, GROUP_ROWS)
    row_mask = rows < tl.load(chunk + 1) * G
    seqs = tl.load(row_seqs + first_row + rows // G, mask=row_mask, other=0)
    tokens = tl.load(cu_seqlens + seqs, mask=row_mask, other=0).to(tl.int64)
    at = tokens * q_stride + (head * G + rows % G) * D
    offs_d = tl.arange(0, WIDTH)
    mask = row_mask[:, None] & (offs_d < D)[None, :]
    q_tile = tl.load(q + at[:, None] + offs_d[None, :], mask=mask, other=0.0)
    table = block_tables + tl.load(row_seqs + first_row).to(tl.int64) * table_stride
    state = _attend(
        q_tile, k_cache, v_cache, table, head, begin, stop, tl.load(chunk + 2), (0, 0, 0, 0),
        tl.load(chunk + 3), scale, softcap, block_stride,
        P, D, WIDTH, TILE, GROUP_ROWS, HAS_SOFTCAP, False, STAGES,
    )  # fmt: skip
    _store_state(state, chunk_states, number, GROUP_ROWS, D, rows, row_mask)


@triton.jit
def _row_piece(  # type: ignore[no-untyped-def]
    q, k_cache, v_cache, out, row_states, cu_seqlens, context_lens, block_tables, seq, skip,
    number, head, begin, stop, num_tiles,
    q_stride, block_stride, table_stride, scale, softcap, window,
    K: tl.constexpr, G: tl.constexpr, P: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr,
    ROWS: tl.constexpr, TILE: tl.constexpr, HAS_SKIPS: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr, HAS_WINDOW: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Compute tiles begin .. stop of a row's own num_tiles under one head."""
    rows = tl.arange(0, ROWS)
    row_mask = rows < G
    token = tl.load(cu_seqlens + seq).to(tl.int64)
    at = (head * G + rows) * D
    offs_d = tl.arange(0, WIDTH)
    mask = row_mask[:, None] & (offs_d < D)[None, :]
    q_tile = tl.load(q + token * q_stride + at[:, None] + offs_d[None, :], mask=mask, other=0.0)
    end = tl.load(context_lens + seq)
    offset = 0
    if HAS_WINDOW:
        offset = tl.maximum(end - window, 0)
    skipped = (tl.load(skip), tl.load(skip + 1), tl.load(skip + 2), tl.load(skip + 3))
    state = _attend(
        q_tile, k_cache, v_cache, block_tables + seq * table_stride, head, begin, stop, offset,
        skipped, end, scale, softcap, block_stride,
        P, D, WIDTH, TILE, ROWS, HAS_SOFTCAP, HAS_SKIPS, STAGES,
    )  # fmt: skip
    if (stop - begin == num_tiles) & (skipped[1] == 0):
        result = result_of(state).to(out.dtype.element_ty)
        tl.store(out + token * (K * G * D) + at[:, None] + offs_d[None, :], result, mask=mask)
    else:
        _store_state(state, row_states, number, G, D, rows, row_mask)


@triton.jit(do_not_specialize=["num_chunks", "num_rows", "num_programs", "table_stride", "window"])
def decode_kernel(  # type: ignore[no-untyped-def]
    q, k_cache, v_cache, out, chunk_states, row_states,
    cu_seqlens, context_lens, block_tables, row_seqs, skips, chunks, cu_tiles,
    num_chunks, num_rows, num_programs,
    q_stride, block_stride, table_stride, scale, softcap, window,
    K: tl.constexpr, G: tl.constexpr, P: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr,
    ROWS: tl.constexpr, GROUP_ROWS: tl.constexpr, TILE: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr, HAS_WINDOW: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Compute one program's stretch. GROUP_ROWS is 0 without chunks; tables: see DecodeTables."""
    num_segments = num_chunks + num_rows
    per_head = tl.load(cu_tiles + num_segments)
    program = tl.program_id(0)
    stretch = stretch_of(per_head * K, num_programs)
    tile = program * stretch
    last = tl.minimum(tile + stretch, per_head * K)
    while tile < last:
        head = tile // per_head
        within = tile % per_head
        segment = _segment_at(cu_tiles, num_segments, within)
        first = tl.load(cu_tiles + segment)
        num_tiles = tl.load(cu_tiles + segment + 1) - first
        begin = within - first
        stop = tl.minimum(num_tiles, begin + last - tile)
        if segment < num_chunks:
            if GROUP_ROWS > 0:
                _chunk_piece(
                    q, k_cache, v_cache, chunk_states, cu_seqlens, block_tables, row_seqs,
                    chunks + 4 * segment, head * num_chunks + segment + program, head,
                    begin, stop, q_stride, block_stride, table_stride, scale, softcap,
                    G, P, D, WIDTH, GROUP_ROWS, TILE, HAS_SOFTCAP, STAGES,
                )  # fmt: skip
        else:
            row = segment - num_chunks
            _row_piece(
                q, k_cache, v_cache, out, row_states, cu_seqlens, context_lens, block_tables,
                tl.load(row_seqs + row).to(tl.int64), skips + 4 * row,
                head * num_rows + row + program, head, begin, stop, num_tiles,
                q_stride, block_stride, table_stride, scale, softcap, window,
                K, G, P, D, WIDTH, ROWS, TILE, GROUP_ROWS > 0, HAS_SOFTCAP, HAS_WINDOW, STAGES,
            )  # fmt: skip
        tile += stop - begin
