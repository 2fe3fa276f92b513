"""Merges the pieces of `decode_kernel`, and counts its tiles (Triton)."""

import triton
import triton.language as tl

from thothy_kernels.paged_attention.triton_impl.decode_kernel import stretch_of
from thothy_kernels.paged_attention.triton_impl.online_softmax import empty_state, result_of


@triton.jit(do_not_specialize=["num_chunks", "num_rows", "window"])
def count_tiles_kernel(  # type: ignore[no-untyped-def]
    cu_tiles, context_lens, row_seqs, skips, chunks, num_chunks, num_rows, window,
    TILE: tl.constexpr, BLOCK: tl.constexpr, HAS_WINDOW: tl.constexpr,
):  # fmt: skip
    """cu_tiles int32 [num_chunks + num_rows + 1] = first tile of each segment under a head.

    One program. It reads context_lens on the device, because they grow from step to step.
    """
    segments = tl.arange(0, BLOCK)
    is_chunk = segments < num_chunks
    starts = tl.load(chunks + 4 * segments + 2, mask=is_chunk, other=0)
    shared = tl.load(chunks + 4 * segments + 3, mask=is_chunk, other=0) - starts
    rows = segments - num_chunks
    is_row = (rows >= 0) & (rows < num_rows)
    seqs = tl.load(row_seqs + rows, mask=is_row, other=0)
    own = tl.load(context_lens + seqs, mask=is_row, other=0)
    if HAS_WINDOW:
        own = tl.minimum(own, window)
    own -= tl.load(skips + 4 * rows + 1, mask=is_row, other=0)
    own -= tl.load(skips + 4 * rows + 3, mask=is_row, other=0)
    own = tl.maximum(own, 0)  # a row that became padding has no context, but keeps its skips
    num_tiles = tl.cdiv(tl.where(is_chunk, shared, own), TILE)
    ends = tl.cumsum(num_tiles, 0)
    tl.store(cu_tiles, 0)
    tl.store(cu_tiles + 1 + segments, ends, mask=segments < num_chunks + num_rows)


@triton.jit
def _add_pieces(  # type: ignore[no-untyped-def]
    state, states, first_row, tile, end, stretch, number,
    PIECE_ROWS: tl.constexpr, G: tl.constexpr, D: tl.constexpr,
    ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Merge the pieces of a segment, tiles tile .. end of all work, into state. Padding rows have
    none."""
    rows = tl.arange(0, ROWS)
    row_mask = rows < G
    offs_d = tl.arange(0, WIDTH)
    mask = row_mask[:, None] & (offs_d < D)[None, :]
    for program in tl.range(tile // stretch, tl.where(end > tile, tl.cdiv(end, stretch), 0)):
        piece = (number + program).to(tl.int64) * PIECE_ROWS + first_row
        at = states + (piece + rows) * (D + 2)
        maximum, total, values = state
        piece_maximum = tl.load(at + D, mask=row_mask, other=0.0)
        piece_total = tl.load(at + D + 1, mask=row_mask, other=0.0)
        piece_values = tl.load(at[:, None] + offs_d[None, :], mask=mask, other=0.0)
        new_maximum = tl.maximum(maximum, piece_maximum)
        kept, added = tl.exp2(maximum - new_maximum), tl.exp2(piece_maximum - new_maximum)
        total = total * kept + piece_total * added
        values = values * kept[:, None] + piece_values * added[:, None]
        state = new_maximum, total, values
    return state


@triton.jit(do_not_specialize=["num_chunks", "num_rows", "num_programs"])
def merge_kernel(  # type: ignore[no-untyped-def]
    out, chunk_states, row_states, cu_seqlens, row_seqs, levels, cu_tiles,
    num_chunks, num_rows, num_programs,
    K: tl.constexpr, G: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr,
    ROWS: tl.constexpr, GROUP_ROWS: tl.constexpr,
):  # fmt: skip
    """Merge one row under one kv head per program: its chunks, then its own pieces, in order."""
    row = tl.program_id(0) // K
    head = tl.program_id(0) % K
    num_segments = num_chunks + num_rows
    per_head = tl.load(cu_tiles + num_segments)
    stretch = stretch_of(per_head * K, num_programs)
    tile = head * per_head + tl.load(cu_tiles + num_chunks + row)
    end = head * per_head + tl.load(cu_tiles + num_chunks + row + 1)
    is_alone = True
    state = empty_state(ROWS, WIDTH)
    if GROUP_ROWS > 0:
        for level in tl.static_range(2):
            chunk = tl.load(levels + 4 * row + 2 * level)
            if chunk >= 0:
                is_alone = False
                tiles = cu_tiles + chunk
                state = _add_pieces(
                    state, chunk_states, tl.load(levels + 4 * row + 2 * level + 1),
                    head * per_head + tl.load(tiles), head * per_head + tl.load(tiles + 1),
                    stretch, head * num_chunks + chunk, GROUP_ROWS, G, D, ROWS, WIDTH,
                )  # fmt: skip
    is_whole = (end > tile) & (tile // stretch == (end - 1) // stretch)
    if not (is_alone & is_whole):
        state = _add_pieces(
            state, row_states, 0, tile, end, stretch, head * num_rows + row, G, G, D, ROWS, WIDTH
        )
        token = tl.load(cu_seqlens + tl.load(row_seqs + row)).to(tl.int64)
        rows = tl.arange(0, ROWS)
        offs_d = tl.arange(0, WIDTH)
        at = token * (K * G * D) + (head * G + rows)[:, None] * D + offs_d[None, :]
        mask = (rows < G)[:, None] & (offs_d < D)[None, :]
        tl.store(out + at, result_of(state).to(out.dtype.element_ty), mask=mask)
