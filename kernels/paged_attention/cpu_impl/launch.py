"""paged_attention on the CPU: blocks are read in place, through the block table.

`work_list` cuts a step into items, this file hands them to the threads, which run `workers`.
"""

import threading

import numpy as np
import torch

from thothy_kernels.numba_simd import thread_pool
from thothy_kernels.numba_simd.arguments import pack
from thothy_kernels.numba_simd.functions import Compiled
from thothy_kernels.paged_attention import AttentionMetadata
from thothy_kernels.paged_attention.cpu_impl.arguments import (
    ARG,
    Arguments,
    partial_size,
    scratch_size,
)
from thothy_kernels.paged_attention.cpu_impl.work_list import (
    NO_WINDOW,
    TILE_ROWS,
    WORK_LIST_KERNELS,
    WorkList,
    work_list,
)
from thothy_kernels.paged_attention.cpu_impl.workers import worker_for

# Rows times positions (times head dim) that a thread should have before a second one is started.
_LEAST_PER_THREAD = 1 << 18

# Scratch memory is kept between calls: fresh pages would cost more than a small call's work.
_kept = threading.local()


def paged_attention(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    meta: AttentionMetadata,
    scale: float,
    softcap: float,
) -> torch.Tensor:
    T, H, D = q.shape
    B, K, P, _ = k_cache.shape
    out = q.new_empty((T, H, D))
    if T == 0:
        return out
    if q.stride(2) != 1 or q.stride(1) != D or q.stride(0) % 2:  # bfloat16 is read by pairs
        q = q.contiguous()
    work = _work_list(meta, (H, K, P, B))
    num_threads = thread_pool.num_threads_for(work.cost * D, _LEAST_PER_THREAD)
    rows = max(TILE_ROWS, -(-(H // K) // 16) * 16)  # products go by 4 or 16 rows
    per_worker = scratch_size(rows, D)
    scratch = _scratch(num_threads * per_worker + work.num_partials * partial_size(rows, D))
    finished_spans = np.zeros(work.num_cut_tiles, np.int64) if work.num_cut_tiles else None
    stride = k_cache.stride(0)
    worker = worker_for(q.dtype, P, D)
    args = pack(
        Arguments(
            next_item=0,
            next_worker=0,
            num_items=0,
            items=0,
            H=H,
            K=K,
            D=D,
            P=P,
            T=T,
            S=len(meta.context_lens),
            M=meta.block_tables.shape[1],
            window=NO_WINDOW if meta.window is None else meta.window,
            scale=thread_pool.float_bits(scale),
            softcap=thread_pool.float_bits(softcap),
            q=q.data_ptr(),
            q_stride=q.stride(0),
            k_cache=k_cache.data_ptr(),
            v_cache=v_cache.data_ptr(),
            block_stride=stride,
            cache_size=(B - 1) * stride + K * P * D,
            out=out.data_ptr(),
            block_tables=meta.block_tables.data_ptr(),
            cu_seqlens=meta.cu_seqlens.data_ptr(),
            context_lens=meta.context_lens.data_ptr(),
            tile_rows=rows,
            scratch=scratch.data_ptr(),
            scratch_per_worker=per_worker,
            num_workers=num_threads,
            num_partials=work.num_partials,
            finished_spans=0 if finished_spans is None else finished_spans.ctypes.data,
            num_cut_tiles=work.num_cut_tiles,
        )
    )
    for num_items, address in work.launches:
        args[ARG.next_item], args[ARG.next_worker] = 0, 0
        args[ARG.num_items], args[ARG.items] = num_items, address
        thread_pool.launch(worker, args, num_threads)
    return out


def kernels(dtype: torch.dtype, block_size: int, head_dim: int) -> tuple[Compiled, ...]:
    """The kernels that the operation needs for a dtype and these sizes on this processor."""
    return worker_for(dtype, block_size, head_dim), *WORK_LIST_KERNELS


def _work_list(meta: AttentionMetadata, shape: tuple[int, int, int, int]) -> WorkList:
    num_threads = torch.get_num_threads()
    key = ("cpu", *shape, num_threads)
    work = meta.plans.get(key)
    if not isinstance(work, WorkList):
        work = meta.plans[key] = work_list(meta, shape, num_threads)
    return work


def _scratch(size: int) -> torch.Tensor:
    kept = getattr(_kept, "scratch", None)
    if kept is None or kept.numel() < size:
        kept = _kept.scratch = torch.empty(size, dtype=torch.float32)
    return kept
