"""rope_and_write_kv as the composition of its parts' references: the definition."""

import torch

from thothy_kernels.kv_write import write_kv
from thothy_kernels.rms_norm import rms_norm
from thothy_kernels.rope import apply_rope


def rope_and_write_kv(
    qkv: torch.Tensor,
    q_norm: torch.Tensor | None,
    k_norm: torch.Tensor | None,
    positions: torch.Tensor,
    cos_sin: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
    num_heads: int,
    eps: float,
    weight_offset: float,
) -> torch.Tensor:
    _, K, _, D = k_cache.shape
    heads = qkv.unflatten(1, (num_heads + 2 * K, D))
    q, k, v = heads.split((num_heads, K, K), dim=1)
    if q_norm is not None and k_norm is not None:
        q = rms_norm(q, q_norm, eps, weight_offset=weight_offset, impl="reference")
        k = rms_norm(k, k_norm, eps, weight_offset=weight_offset, impl="reference")
    q, k = apply_rope(q, k, positions, cos_sin, impl="reference")
    write_kv(k, v, k_cache, v_cache, slot_mapping, impl="reference")
    return q
