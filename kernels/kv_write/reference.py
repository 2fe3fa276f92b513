"""write_kv in plain torch: the definition."""

import torch


def write_kv(
    k: torch.Tensor,
    v: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
) -> None:
    B, _, P, _ = k_cache.shape
    if bool(((slot_mapping < -1) | (slot_mapping >= B * P)).any()):
        raise ValueError(f"write_kv: slot_mapping has a slot outside -1 .. {B * P - 1}")
    written = slot_mapping >= 0
    slots = slot_mapping[written]
    k_cache[slots // P, :, slots % P] = k[written]
    v_cache[slots // P, :, slots % P] = v[written]
