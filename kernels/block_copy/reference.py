"""copy_blocks in plain torch: the definition."""

import torch


def copy_blocks(
    k_cache: torch.Tensor, v_cache: torch.Tensor, src_ids: list[int], dst_ids: list[int]
) -> None:
    k_cache[dst_ids] = k_cache[src_ids]
    v_cache[dst_ids] = v_cache[src_ids]
