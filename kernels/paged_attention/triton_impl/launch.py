"""paged_attention on a CUDA device: one kernel for decode rows, one for prompt chunks.

Kernels are compiled for constants of a model: heads, head dim, block size, dtype. Numbers of rows,
tiles and positions are read on the device or passed as plain integers. Nothing here synchronises:
values that the host needs come from `meta.host`.
"""

from dataclasses import dataclass

import torch

from thothy_kernels.launch import LOG2E, check_device
from thothy_kernels.paged_attention import AttentionMetadata
from thothy_kernels.paged_attention.block_checks import check_blocks_exist
from thothy_kernels.paged_attention.triton_impl.decode_kernel import decode_kernel
from thothy_kernels.paged_attention.triton_impl.decode_plan import (
    DecodePlan,
    PrefillPlan,
    StepPlan,
    count_tiles,
    decode_plan,
)
from thothy_kernels.paged_attention.triton_impl.decode_tables import decode_tables, prefill_tiles
from thothy_kernels.paged_attention.triton_impl.merge_kernel import merge_kernel
from thothy_kernels.paged_attention.triton_impl.prefill_kernel import prefill_kernel
from thothy_kernels.paged_attention.triton_impl.shapes import MERGE_WARPS, AttentionShape
from thothy_kernels.transfer import send


def paged_attention(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    meta: AttentionMetadata,
    scale: float,
    softcap: float,
) -> torch.Tensor:
    check_device("paged_attention", q, k_cache, v_cache, meta.block_tables)
    T, H, D = q.shape
    B, K, P, _ = k_cache.shape
    out = q.new_empty((T, H, D))
    if T == 0:
        return out
    if q.stride(2) != 1 or q.stride(1) != D:
        q = q.contiguous()
    shape = AttentionShape(H, K, D, P, q.dtype)
    plan = meta.plans.get(shape)
    if not isinstance(plan, StepPlan):
        plan = meta.plans[shape] = _plan(meta, shape, B)
    tensors = (q, k_cache, v_cache, out)
    arguments = _arguments(q, k_cache, meta, scale, softcap)
    if plan.decode is not None:
        _decode(plan.decode, tensors, meta, shape, arguments)
    if plan.prefill is not None:
        _prefill(plan.prefill, tensors, meta, shape, arguments)
    return out


def _plan(meta: AttentionMetadata, shape: AttentionShape, num_blocks: int) -> StepPlan:
    host = meta.host if meta.host is not None else meta
    if host.context_lens.device.type != "cpu":
        raise ValueError("paged_attention: metadata on a device needs its host's values in `host`")
    check_blocks_exist(host, shape.P, num_blocks)
    device = meta.context_lens.device
    settings = shape.prefill_settings
    tiles = send(prefill_tiles(host, shape.prefill_queries(settings)), device)
    tables = decode_tables(host, shape.G, shape.P).to(device)
    decode = decode_plan(tables, shape) if tables.num_rows else None
    if decode is not None:
        count_tiles(decode, meta)
    return StepPlan(decode, PrefillPlan(settings, tiles) if len(tiles) else None)


def _decode(
    plan: DecodePlan,
    tensors: tuple[torch.Tensor, ...],
    meta: AttentionMetadata,
    shape: AttentionShape,
    arguments: "_Arguments",
) -> None:
    tables = plan.tables
    counts = (tables.num_chunks, tables.num_rows, plan.num_programs)
    decode_kernel[(plan.num_programs,)](
        *(*tensors, plan.chunk_states, plan.row_states),
        *(meta.cu_seqlens, meta.context_lens, meta.block_tables),
        *(tables.row_seqs, tables.skips, tables.chunks, plan.cu_tiles, *counts),
        *arguments.numbers,
        **shape.decode_constants(plan.group_rows, plan.settings),
        **arguments.flags,
        num_warps=plan.settings.warps,
    )
    merge_kernel[(tables.num_rows * shape.K,)](
        *(tensors[-1], plan.chunk_states, plan.row_states, meta.cu_seqlens),
        *(tables.row_seqs, tables.levels, plan.cu_tiles, *counts),
        **shape.merge_constants(plan.group_rows),
        num_warps=MERGE_WARPS,
    )


def _prefill(
    plan: PrefillPlan,
    tensors: tuple[torch.Tensor, ...],
    meta: AttentionMetadata,
    shape: AttentionShape,
    arguments: "_Arguments",
) -> None:
    prefill_kernel[(len(plan.tiles) * shape.K,)](
        *(*tensors, plan.tiles, meta.cu_seqlens, meta.context_lens, meta.block_tables),
        *arguments.numbers,
        **shape.prefill_constants(plan.settings),
        **arguments.flags,
        num_warps=plan.settings.warps,
        num_stages=plan.settings.stages,
    )


@dataclass(frozen=True, slots=True)
class _Arguments:
    """Arguments common to both kernels: strides, scale, cap, window; flags for the last two."""

    numbers: tuple[float, ...]
    flags: dict[str, bool]


def _arguments(
    q: torch.Tensor, k_cache: torch.Tensor, meta: AttentionMetadata, scale: float, softcap: float
) -> _Arguments:
    strides = (q.stride(0), k_cache.stride(0), meta.block_tables.stride(0))
    # Weights are powers of two: log2(e) is folded into the scale unless a cap is applied between.
    factor = scale if softcap else scale * LOG2E
    return _Arguments(
        (*strides, factor, softcap, meta.window or 0),
        {"HAS_SOFTCAP": softcap > 0, "HAS_WINDOW": meta.window is not None},
    )
