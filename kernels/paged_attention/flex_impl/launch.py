"""paged_attention by torch's flex_attention: for masks without a kernel, and as a second oracle.

Queries are dealt out in tiles, each of one sequence. An element of flex's batch is a tile and a kv
head; its rows are the tile's queries times the G query heads that share the kv head.

On a device the cache is read in place. [B, K, P, D] is no view of [1, K, B * P, D], for K lies
between B and P; but rows of D follow one another, so that the pool is a view of [1, 1, rows, D], in
which a page, P rows, is what a block holds of one kv head: page block * apart + head, where blocks
lie `apart` pages apart. A BlockMask lists the pages that each tile and kv head needs; its mask_mod
turns a row of the pool back into a position of the sequence.

Flex masks scores, not values, and a weight of 0 times NaN is NaN. So blocks in place are those
whose slots are all seen by the tile. The one or two others, where what it sees begins and ends, are
copied, with zeros for slots that it must not see; both results are merged by their log-sum-exps.

On the CPU flex_attention is not compiled and computes every score, whatever the BlockMask lists:
there all blocks that a tile needs are copied, once a call, in float32. So they are on a device, in
their dtype, if blocks have no multiple of 16 slots, lie no whole number of pages apart, or span
over 2^31 elements. On a device head dims are 16 at least: flex's kernel takes no less.
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
    # Eager flex rounds weights to the dtype of the values: on a CPU sums are float32.
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
    """[N * K, 1, C * P, D]: the blocks of each tile, zeros in slots that it must not see."""
    blocks = pool[plan.block_ids]
    blocks = blocks.masked_fill_(~plan.is_seen[:, :, None, :, None], 0.0)
    N, C, K, P, D = blocks.shape
    return blocks.transpose(1, 2).reshape(N * K, 1, C * P, D)


def _as_rows(pool: torch.Tensor) -> torch.Tensor:
    """A view [1, 1, rows, D] from the pool's first block to its last, all between them included."""
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
    """Results like q and log-sum-exps [N * K, 1, rows]; 0 and -inf in rows that see nothing."""

    def capped(score: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        return softcap * torch.tanh(score / softcap)

    flex = _compiled() if q.is_cuda else flex_attention
    # A scale is a constant of the kernel; each model, cap and lone tile is compiled for itself.
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
    """Results over disjoint keys as one: each has the share of its log-sum-exp."""
    if len(parts) == 1:
        return parts[0][0]
    outs, sums = zip(*parts, strict=True)
    shares = torch.stack(sums).softmax(0)[..., None]
    return (torch.stack(outs).float() * shares).sum(0)
