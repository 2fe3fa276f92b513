"""paged_attention on the CPU: blocks are read in place, through the block table.

This file hands work to the threads; `work_list` cuts it, `item_kernel` computes.
"""

import threading

import numpy as np
import torch

from thothy_kernels.numba_simd import cpu_features, thread_pool
from thothy_kernels.paged_attention import AttentionMetadata
from thothy_kernels.paged_attention.cpu_impl.arguments import (
    ITEMS,
    NEXT_ITEM,
    NEXT_WORKER,
    NUM_ITEMS,
    partial_size,
    scratch_size,
)
from thothy_kernels.paged_attention.cpu_impl.item_kernel import run_items
from thothy_kernels.paged_attention.cpu_impl.work_list import (
    NO_WINDOW,
    TILE_ROWS,
    WorkList,
    work_list,
)

# Rows times positions (times head dim) that a thread should have before a second one is started.
_LEAST_PER_THREAD = 1 << 18

# Scratch memory is kept from call to call: fresh pages would cost more than a small call's work.
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
    if q.stride(2) != 1 or q.stride(1) != D or q.stride(0) % 2:  # it is read by pairs
        q = q.contiguous()
    work = _work_list(meta, (H, K, P, B))
    num_threads = thread_pool.num_threads_for(work.cost * D, _LEAST_PER_THREAD)
    rows = max(TILE_ROWS, -(-(H // K) // 16) * 16)  # products go by 4 or 16 rows
    per_thread = scratch_size(rows, D)
    scratch = _scratch(num_threads * per_thread + work.num_partials * partial_size(rows, D))
    finished = np.zeros(work.num_cut_tiles + 1, np.int64)
    tables = meta.block_tables
    stride = k_cache.stride(0)
    args = np.array(
        (
            *(0, 0, 0, num_threads, rows, per_thread, thread_pool.float_bits(scale)),
            *(H, K, P, D, tables.shape[1], q.stride(0), q.shape[0]),
            (B - 1) * stride + K * P * D,
            *(len(meta.context_lens), work.num_partials, len(finished)),
            *(0, q.data_ptr(), k_cache.data_ptr(), v_cache.data_ptr()),
            *(out.data_ptr(), tables.data_ptr(), meta.cu_seqlens.data_ptr()),
            *(meta.context_lens.data_ptr(), scratch.data_ptr(), finished.ctypes.data),
            *(q.dtype == torch.float32, stride),
            *(NO_WINDOW if meta.window is None else meta.window, thread_pool.float_bits(softcap)),
            *_in_place(q, P),
        ),
        dtype=np.int64,
    )
    for items in (work.group_items, work.items):
        if len(items):
            args[NEXT_ITEM], args[NEXT_WORKER] = 0, 0
            args[NUM_ITEMS], args[ITEMS] = len(items), items.ctypes.data
            thread_pool.launch(run_items, args, num_threads)
    return out


def _in_place(q: torch.Tensor, block_size: int) -> tuple[bool, bool]:
    """Whether matrix tiles are used, and products of pairs for single queries. Blocks then hold
    whole pieces of 16 keys."""
    D = q.shape[2]
    fits = q.dtype == torch.bfloat16 and block_size % 16 == 0
    by_tiles = fits and cpu_features.HAS_TILES and D % 32 == 0
    return by_tiles, fits and cpu_features.HAS_DOT and not by_tiles and D % 64 == 0


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
