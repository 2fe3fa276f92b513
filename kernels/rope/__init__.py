"""Rotary position embedding (Su et al. 2021, arXiv:2104.09864), half-split layout.

Elements i of the first and second half of a head are one point, rotated by the angle whose cosine
and sine are `cos_sin[position, i]` and `cos_sin[position, D/2 + i]`.
"""

import torch

from thothy_kernels.contract import FLOAT_DTYPES, Implementations, refuse

__all__ = ["apply_rope"]

_impls = Implementations(__name__)


def apply_rope(
    q: torch.Tensor,
    k: torch.Tensor,
    positions: torch.Tensor,
    cos_sin: torch.Tensor,
    *,
    impl: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotate q [T, H, D] and k [T, K, D]; returns new tensors of the same shapes and dtype.

    positions int64 [T]; cos_sin float32 [L, D], cosines in the first half, sines in the second.
    Computed in float32, rounded once. Raises ValueError for shapes that do not fit and for
    positions outside 0 .. L - 1.
    """
    op = "apply_rope"
    if q.dim() != 3 or q.dtype not in FLOAT_DTYPES or q.shape[2] % 2:
        refuse(op, "q", q, "float32 or bfloat16 [T, H, D] with even D")
    T, _, D = q.shape
    if k.dim() != 3 or k.shape[0] != T or k.shape[2] != D or k.dtype != q.dtype:
        refuse(op, "k", k, f"{q.dtype} [{T}, K, {D}]")
    if positions.shape != (T,) or positions.dtype != torch.int64:
        refuse(op, "positions", positions, f"int64 [{T}]")
    if cos_sin.dim() != 2 or cos_sin.shape[1] != D or cos_sin.dtype != torch.float32:
        refuse(op, "cos_sin", cos_sin, f"torch.float32 [L, {D}]")
    return _impls[impl].apply_rope(q, k, positions, cos_sin)
