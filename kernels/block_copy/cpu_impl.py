"""copy_blocks on the CPU, block by block: a contiguous block is one memcpy without a temporary."""

import torch


def copy_blocks(
    k_cache: torch.Tensor, v_cache: torch.Tensor, src_ids: list[int], dst_ids: list[int]
) -> None:
    for src, dst in zip(src_ids, dst_ids, strict=True):
        k_cache[dst].copy_(k_cache[src])
        v_cache[dst].copy_(v_cache[src])
