"""Head norms, rotary embedding and KV write of a merged QKV projection, fused.

The operation is the composition of `rms_norm`, `apply_rope` and `write_kv`, each rounded to the
dtype; `reference` and `cpu` have their bits. `cpu` and `triton` make one pass over the projection.
"""

import torch

from thothy_kernels.contract import FLOAT_DTYPES, Implementations, check_blocks, refuse

__all__ = ["rope_and_write_kv"]

_impls = Implementations(__name__, ("reference", "cpu", "triton"))


def rope_and_write_kv(
    qkv: torch.Tensor,
    q_norm: torch.Tensor | None,
    k_norm: torch.Tensor | None,
    positions: torch.Tensor,
    cos_sin: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
    *,
    num_heads: int,
    eps: float,
    weight_offset: float = 0.0,
    impl: str,
) -> torch.Tensor:
    """Rotate q and k of qkv [T, (H + 2K) * D] (q | k | v) and write k and v to the KV cache.

    Returns q [T, H, D], a new tensor; writes into k_cache, v_cache [B, K, P, D] in place. All have
    one dtype; rows of qkv may be strided.

    q_norm, k_norm [D]: weights of the head norms (see `rms_norm`, also for eps and weight_offset),
    or both None for a model without them. positions int64 [T]; cos_sin float32 [L, D], cosines
    first. slot_mapping int64 [T]: block_id * P + offset; -1 writes nothing (padding). Slots are
    distinct.

    Raises ValueError for shapes that do not fit, positions outside 0 .. L - 1 and slots outside
    the pool. `triton` cannot raise for the latter two without synchronising: it stores nothing for
    such a token, and its q is NaN, which sampling reports.
    """
    op = "rope_and_write_kv"
    _check_caches(op, qkv, k_cache, v_cache)
    _, K, _, D = k_cache.shape
    if qkv.shape[1] != (num_heads + 2 * K) * D or num_heads < 1:
        refuse(op, "qkv", qkv, f"{qkv.dtype} [T, ({num_heads} + 2 * {K}) * {D}]")
    if (q_norm is None) != (k_norm is None):
        raise ValueError(f"{op}: q_norm and k_norm are given together, or both None")
    for name, weight in (("q_norm", q_norm), ("k_norm", k_norm)):
        if weight is not None and (weight.shape != (D,) or weight.dtype != qkv.dtype):
            refuse(op, name, weight, f"{qkv.dtype} [{D}]")
    for name, numbers in (("positions", positions), ("slot_mapping", slot_mapping)):
        if numbers.shape != qkv.shape[:1] or numbers.dtype != torch.int64:
            refuse(op, name, numbers, f"int64 [{qkv.shape[0]}]")
    if cos_sin.dim() != 2 or cos_sin.shape[1] != D or cos_sin.dtype != torch.float32:
        refuse(op, "cos_sin", cos_sin, f"torch.float32 [L, {D}]")
    return _impls[impl].rope_and_write_kv(
        *(qkv, q_norm, k_norm, positions, cos_sin, k_cache, v_cache, slot_mapping),
        *(num_heads, eps, weight_offset),
    )


def _check_caches(op: str, qkv: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor) -> None:
    if qkv.dim() != 2 or qkv.dtype not in FLOAT_DTYPES:
        refuse(op, "qkv", qkv, "float32 or bfloat16 [T, (H + 2K) * D]")
    if k_cache.dim() != 4 or k_cache.shape[3] % 2 or k_cache.dtype != qkv.dtype:
        refuse(op, "k_cache", k_cache, f"{qkv.dtype} [B, K, P, D] with even D")
    if v_cache.shape != k_cache.shape or v_cache.dtype != qkv.dtype:
        refuse(op, "v_cache", v_cache, f"{qkv.dtype} {list(k_cache.shape)}, like k_cache")
    check_blocks(op, k_cache, v_cache)
