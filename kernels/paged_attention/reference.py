"""paged_attention in plain torch: the definition.

One sequence and one span of positions at a time, all heads together, in float32.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from thothy_kernels.invariance import multiply_batches
from thothy_kernels.paged_attention import SPAN, AttentionMetadata

# A row of a matrix product has the same bits alone and in a batch only for multiples of 8 rows
# (measured: see invariance.py; the same holds for batched products over heads).
_ROW_MULTIPLE = 8


def paged_attention(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    meta: AttentionMetadata,
    scale: float,
    softcap: float,
) -> torch.Tensor:
    out = torch.empty_like(q)
    starts = meta.cu_seqlens.tolist()
    for seq, context_len in enumerate(meta.context_lens.tolist()):
        rows = slice(starts[seq], starts[seq + 1])
        if rows.start == rows.stop:
            continue
        first = 0
        if meta.window is not None:
            first = max(0, context_len - (rows.stop - rows.start) + 1 - meta.window)
        blocks = _blocks_of(meta.block_tables[seq], first, context_len, k_cache)
        visible = _Visible(blocks, first, context_len, meta.window)
        out[rows] = _attend(q[rows], k_cache, v_cache, visible, scale, softcap).to(q.dtype)
    return out


@dataclass(frozen=True, slots=True)
class _Visible:
    """Positions first .. end that the queries of a sequence attend to, and their blocks."""

    blocks: torch.Tensor
    first: int
    end: int
    window: int | None


def _blocks_of(
    table: torch.Tensor, first: int, context_len: int, cache: torch.Tensor
) -> torch.Tensor:
    B, _, P, _ = cache.shape
    num_blocks = -(-context_len // P)
    blocks = table[:num_blocks].long()
    needed = blocks[first // P :]
    if num_blocks > table.shape[0] or bool(((needed < 0) | (needed >= B)).any()):
        raise ValueError(
            f"paged_attention: a context of {context_len} tokens needs {num_blocks} block ids "
            f"within 0 .. {B - 1} in its row of block_tables"
        )
    return blocks


def _attend(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    context: _Visible,
    scale: float,
    softcap: float,
) -> torch.Tensor:
    """Attention of q [n, H, D], the last n positions of one sequence; float32 [n, H, D]."""
    n, H, D = q.shape
    blocks, context_len = context.blocks, context.end
    _, K, P, _ = k_cache.shape
    # The query heads of one kv head, query by query: rows of one matrix product.
    grouped = (q.float() * scale).view(n, K, H // K, D).transpose(0, 1).reshape(K, -1, D)
    grouped = F.pad(grouped, (0, 0, 0, -grouped.shape[1] % _ROW_MULTIPLE))
    last_visible = torch.arange(context_len - n, context_len).repeat_interleave(H // K)
    last_visible = F.pad(last_visible, (0, grouped.shape[1] - last_visible.shape[0]))

    merged: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None
    for start in range(context.first // SPAN * SPAN, context_len, SPAN):
        positions = torch.arange(max(start, context.first), min(start + SPAN, context_len))
        block_ids, offset = blocks[positions // P], positions % P
        k = _span(k_cache[block_ids, :, offset], int(positions[0]) - start)
        v = _span(v_cache[block_ids, :, offset], int(positions[0]) - start)
        visible = torch.arange(start, start + SPAN) <= last_visible[:, None]
        if context.window is not None:
            visible &= torch.arange(start, start + SPAN) > last_visible[:, None] - context.window
        part = _partial(grouped, k, v, visible, softcap)
        merged = part if merged is None else _merge(merged, part)
    assert merged is not None
    _, total, weighted = merged
    out = (weighted / total)[:, : n * (H // K)]
    return out.reshape(K, n, H // K, D).transpose(0, 1).reshape(n, H, D)


def _span(rows: torch.Tensor, first: int) -> torch.Tensor:
    """rows [x, K, D] at positions `first` .. of a span, as float32 [K, SPAN, D] padded with 0."""
    after = SPAN - first - rows.shape[0]
    return F.pad(rows.float().transpose(0, 1), (0, 0, first, after)).contiguous()


def _partial(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, visible: torch.Tensor, softcap: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """One span: maximum [K, N, 1], sum [K, N, 1] and weighted values [K, N, D] of N rows."""
    scores = multiply_batches(q, k.transpose(1, 2))
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.masked_fill(~visible, float("-inf"))
    maximum = scores.amax(-1, keepdim=True)
    # A row without a visible position here has the maximum -inf: the clamp makes its weights 0.
    weights = torch.exp(scores - maximum.clamp_min(torch.finfo(torch.float32).min))
    return maximum, weights.sum(-1, keepdim=True), multiply_batches(weights, v)


def _merge(
    a: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    b: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Merge two partial results. A row without a visible position in one has weight 0 there."""
    maximum = torch.maximum(a[0], b[0])
    finite = maximum.clamp_min(torch.finfo(torch.float32).min)
    factor_a, factor_b = torch.exp(a[0] - finite), torch.exp(b[0] - finite)
    total = a[1] * factor_a + b[1] * factor_b
    return maximum, total, a[2] * factor_a + b[2] * factor_b
