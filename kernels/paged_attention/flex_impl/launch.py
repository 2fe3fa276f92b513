"""paged_attention by torch's flex_attention: for masks without a kernel, and as a second oracle.

Queries are cut into tiles, each of one sequence. An element of flex's batch is a tile and a kv
head; its rows are the tile's queries times the G query heads that share the kv head.

On a device the cache is read in place. [B, K, P, D] is not a view of [1, K, B * P, D], because K is
between B and P. But rows of D are consecutive, so the pool is a view of [1, 1, rows, D], in which a
page of P rows holds one kv head of a block: page block * block_pages + head, where block_pages is
the stride of a block in pages. A BlockMask lists the pages of each tile and kv head; its mask_mod
maps a row of the pool back to a position of the sequence.

Flex masks scores, not values, and a weight of 0 times NaN is NaN. Blocks are therefore read in
place only if the tile attends to all of their slots. The one or two others, at the ends of its
visible positions, are copied, with zeros in slots that are not visible; both results are merged by
their log-sum-exps.

On the CPU flex_attention is not compiled and computes every score regardless of the BlockMask, so
all blocks of a tile are copied, once a call, in float32. A device copies them too, in their dtype,
if the block size is not a multiple of 16, the stride of a block is not a whole number of pages, or
the pool spans over 2^31 elements. On a device the head dim is at least 16, the least that flex's
kernel takes.
"""

import warnings
from functools import cache
from typing import Any

import torch
from torch.nn.attention.flex_attention import AuxRequest, BlockMask, flex_attention

from thothy_kernels.paged_attention import AttentionMetadata
from thothy_kernels.paged_attention.flex_impl.block_masks import Plan, layout_of, plan_of


def paged_attention(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    meta: AttentionMetadata,
    scale: float,
    softcap: float,
) -> torch.Tensor:
    if q.shape[0] == 0:
        return torch.empty_like(q)
    layout = layout_of(q, k_cache)
    plan = meta.plans.get(layout)
    if not isinstance(plan, Plan):
        plan = meta.plans[layout] = plan_of(meta, layout)
    # Eager flex rounds weights to the dtype of the values, so the CPU computes in float32.
    dtype = q.dtype if q.is_cuda else torch.float32
    rows = layout.to_rows(q[plan.rows]).to(dtype)
    options = layout.kernel_options(rows.shape[2])

    def attend(k: torch.Tensor, v: torch.Tensor, mask: BlockMask) -> tuple[torch.Tensor, ...]:
        return _attend(rows, k.to(dtype), v.to(dtype), mask, scale, softcap, options)

    parts = [attend(_copies(k_cache, plan), _copies(v_cache, plan), plan.copied)]
    if plan.in_place is not None:
        parts.append(attend(_as_rows(k_cache), _as_rows(v_cache), plan.in_place))
    return layout.from_rows(_merge(parts)).to(q.dtype)[plan.places]


def _copies(pool: torch.Tensor, plan: Plan) -> torch.Tensor:
    """Copied blocks of each tile [N * K, 1, C * P, D], zeros in slots that are not visible."""
    blocks = pool[plan.block_ids]
    blocks = blocks.masked_fill_(~plan.is_visible[:, :, None, :, None], 0.0)
    N, C, K, P, D = blocks.shape
    return blocks.transpose(1, 2).reshape(N * K, 1, C * P, D)


def _as_rows(pool: torch.Tensor) -> torch.Tensor:
    """The pool as a view [1, 1, rows, D], from its first block to its last with all between."""
    B, K, P, D = pool.shape
    num_rows = ((B - 1) * pool.stride(0) + K * P * D) // D
    return pool.as_strided((1, 1, num_rows, D), (num_rows * D, num_rows * D, D, 1))


def _attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: BlockMask,
    scale: float,
    softcap: float,
    options: dict[str, Any],
) -> tuple[torch.Tensor, torch.Tensor]:
    """(results like q, log-sum-exps [N * K, 1, rows]); 0 and -inf in rows without a visible key."""

    def capped(score: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        return softcap * torch.tanh(score / softcap)

    flex = _compiled() if q.is_cuda else flex_attention
    # The scale is a constant of the kernel; each model, cap and single tile compiles its own.
    settings = torch._dynamo.config.patch(specialize_float=True, recompile_limit=64)
    with settings, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "flex_attention called without torch.compile")
        out, aux = flex(
            *(q, k, v),
            score_mod=capped if softcap else None,
            block_mask=mask,
            scale=scale,
            kernel_options=options,
            return_aux=AuxRequest(lse=True),
        )
    return out, aux.lse


@cache
def _compiled() -> Any:
    return torch.compile(flex_attention, dynamic=True, fullgraph=True)


def _merge(parts: list[tuple[torch.Tensor, ...]]) -> torch.Tensor:
    """Merge results over disjoint keys, weighted by the softmax of their log-sum-exps."""
    if len(parts) == 1:
        return parts[0][0]
    outs, sums = zip(*parts, strict=True)
    shares = torch.stack(sums).softmax(0)[..., None]
    return (torch.stack(outs).float() * shares).sum(0)
