"""paged_attention in plain torch: the definition.

One sequence and one span of positions at a time, all heads together, in float32.
"""

import torch
import torch.nn.functional as F

from thothy_kernels.paged_attention import SPAN, AttentionMetadata

# Rows of a matrix product have the same bits alone and among others only for multiples of 8 rows
# (measured: see linear/invariance.py; the same holds for batched products over heads).
_ROW_MULTIPLE = 8


def paged_attention(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    meta: AttentionMetadata,
    scale: float,
) -> torch.Tensor:
    out = torch.empty_like(q)
    starts = meta.cu_seqlens.tolist()
    for seq, context_len in enumerate(meta.context_lens.tolist()):
        rows = slice(starts[seq], starts[seq + 1])
        if rows.start == rows.stop:
            continue
        blocks = _blocks_of(meta.block_tables[seq], context_len, k_cache)
        out[rows] = _attend(q[rows], k_cache, v_cache, blocks, context_len, scale).to(q.dtype)
    return out


def _blocks_of(table: torch.Tensor, context_len: int, cache: torch.Tensor) -> torch.Tensor:
    B, _, P, _ = cache.shape
    num_blocks = -(-context_len // P)
    blocks = table[:num_blocks].long()
    if num_blocks > table.shape[0] or bool(((blocks < 0) | (blocks >= B)).any()):
        raise ValueError(
            f"paged_attention: a context of {context_len} tokens needs {num_blocks} block ids "
            f"within 0 .. {B - 1} in its row of block_tables"
        )
    return blocks


def _attend(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    blocks: torch.Tensor,
    context_len: int,
    scale: float,
) -> torch.Tensor:
    """Attention of q [n, H, D], the last n positions of one sequence; float32 [n, H, D]."""
    n, H, D = q.shape
    _, K, P, _ = k_cache.shape
    # The query heads of one kv head, query by query: rows of one matrix product.
    grouped = (q.float() * scale).view(n, K, H // K, D).transpose(0, 1).reshape(K, -1, D)
    grouped = F.pad(grouped, (0, 0, 0, -grouped.shape[1] % _ROW_MULTIPLE))
    last_visible = torch.arange(context_len - n, context_len).repeat_interleave(H // K)
    last_visible = F.pad(last_visible, (0, grouped.shape[1] - last_visible.shape[0]))

    merged: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None
    for start in range(0, context_len, SPAN):
        positions = torch.arange(start, min(start + SPAN, context_len))
        page, offset = blocks[positions // P], positions % P
        k = _span(k_cache[page, :, offset])
        v = _span(v_cache[page, :, offset])
        visible = torch.arange(start, start + SPAN) <= last_visible[:, None]
        part = _partial(grouped, k, v, visible)
        merged = part if merged is None else _merge(merged, part)
    assert merged is not None
    _, total, weighted = merged
    out = (weighted / total)[:, : n * (H // K)]
    return out.reshape(K, n, H // K, D).transpose(0, 1).reshape(n, H, D)


def _span(rows: torch.Tensor) -> torch.Tensor:
    """[x, K, D] of at most SPAN positions to float32 [K, SPAN, D], zeros behind the last."""
    return F.pad(rows.float().transpose(0, 1), (0, 0, 0, SPAN - rows.shape[0])).contiguous()


def _partial(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, visible: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """One span: maximum [K, N, 1], sum [K, N, 1] and weighted values [K, N, D] of N rows."""
    scores = torch.bmm(q, k.transpose(1, 2)).masked_fill(~visible, float("-inf"))
    maximum = scores.amax(-1, keepdim=True)
    # A row that sees nothing of this span has maximum -inf: exp(-inf - 0) is the 0 it needs.
    weights = torch.exp(scores - maximum.clamp_min(torch.finfo(torch.float32).min))
    return maximum, weights.sum(-1, keepdim=True), torch.bmm(weights, v)


def _merge(
    a: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    b: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Both spans as one. `a` has seen something in every row: position 0 is visible to all."""
    maximum = torch.maximum(a[0], b[0])
    of_a, of_b = torch.exp(a[0] - maximum), torch.exp(b[0] - maximum)
    return maximum, a[1] * of_a + b[1] * of_b, a[2] * of_a + b[2] * of_b
