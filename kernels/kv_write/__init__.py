"""Write of a step's keys and values to their slots of the KV pool."""

import torch

from thothy_kernels.contract import FLOAT_DTYPES, Implementations, check_blocks, refuse

__all__ = ["write_kv"]

_impls = Implementations(__name__)


def write_kv(
    k: torch.Tensor,
    v: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
    *,
    impl: str,
) -> None:
    """Write k, v [T, K, D] into k_cache, v_cache [B, K, P, D] in place; all of one dtype.

    Blocks [K, P, D] are contiguous, at any even stride. slot_mapping int64 [T]: block_id * P +
    offset; -1 skips the token (padding). Slots are distinct. Raises ValueError for shapes that do
    not fit and slots outside the pool.
    """
    op = "write_kv"
    if k.dim() != 3 or k.dtype not in FLOAT_DTYPES:
        refuse(op, "k", k, "float32 or bfloat16 [T, K, D]")
    T, K, D = k.shape
    if v.shape != k.shape or v.dtype != k.dtype:
        refuse(op, "v", v, f"{k.dtype} {list(k.shape)}, like k")
    if k_cache.dim() != 4 or (k_cache.shape[1], k_cache.shape[3]) != (K, D):
        refuse(op, "k_cache", k_cache, f"{k.dtype} [B, {K}, P, {D}]")
    if v_cache.shape != k_cache.shape:
        refuse(op, "v_cache", v_cache, f"{k.dtype} {list(k_cache.shape)}, like k_cache")
    if k_cache.dtype != k.dtype or v_cache.dtype != k.dtype:
        raise ValueError(f"{op}: k is {k.dtype}, the caches {k_cache.dtype}, {v_cache.dtype}")
    check_blocks(op, k_cache, v_cache)
    if slot_mapping.shape != (T,) or slot_mapping.dtype != torch.int64:
        refuse(op, "slot_mapping", slot_mapping, f"int64 [{T}]")
    _impls[impl].write_kv(k, v, k_cache, v_cache, slot_mapping)
