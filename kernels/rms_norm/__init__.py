"""Root-mean-square normalisation (Zhang and Sennrich 2019, arXiv:1910.07467).

    y = round(x / sqrt(mean(x^2) + eps)) * weight                 weight_offset = 0
    y = round(x / sqrt(mean(x^2) + eps) * (weight + offset))      otherwise

Statistics are float32. `round` is to x's dtype: before the weight is applied for Llama and related
checkpoints, after it for Gemma, whose stored weights are offsets from 1. Each follows its training
code.
"""

import torch

from thothy_kernels.contract import FLOAT_DTYPES, Implementations, refuse

__all__ = ["add_rms_norm", "rms_norm"]

_impls = Implementations(__name__, ("reference", "cpu", "triton"))


def rms_norm(
    x: torch.Tensor,
    weight: torch.Tensor,
    eps: float,
    *,
    weight_offset: float = 0.0,
    impl: str,
) -> torch.Tensor:
    """Normalise the last dimension of x [..., N] with weight [N]; returns x's shape and dtype.

    `weight_offset` is added to the weight in float32. In float32 a row's bits are the same alone
    and in any batch. Raises ValueError for shapes and dtypes that do not fit.
    """
    _check("rms_norm", x, weight)
    return _impls[impl].rms_norm(x, weight, eps, weight_offset)


def add_rms_norm(
    x: torch.Tensor,
    delta: torch.Tensor,
    weight: torch.Tensor,
    eps: float,
    *,
    weight_offset: float = 0.0,
    impl: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Add delta to x, both [..., N] of one dtype, and normalise; returns (x + delta, its norm).

    The sum is rounded once to the dtype before it is normalised: the bits are those of x + delta
    followed by rms_norm. Both results are new tensors. Raises ValueError like rms_norm.
    """
    _check("add_rms_norm", x, weight)
    if delta.shape != x.shape or delta.dtype != x.dtype:
        refuse("add_rms_norm", "delta", delta, f"{x.dtype} {list(x.shape)}, like x")
    return _impls[impl].add_rms_norm(x, delta, weight, eps, weight_offset)


def _check(op: str, x: torch.Tensor, weight: torch.Tensor) -> None:
    if x.dim() < 1 or x.dtype not in FLOAT_DTYPES:
        refuse(op, "x", x, "float32 or bfloat16 [..., N]")
    if weight.shape != x.shape[-1:] or weight.dtype != x.dtype:
        refuse(op, "weight", weight, f"{x.dtype} {list(x.shape[-1:])}")
