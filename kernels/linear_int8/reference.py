"""The product of 8 bits in plain torch: the definition."""

from collections.abc import Callable

import torch

from thothy_kernels.linear_int8 import HIGHEST, LEAST_MAGNITUDE


def quantize_rows(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """x [T, K] as q int8 [T, K] and s float32 [T]: x is about q * s."""
    x = x.float()
    magnitude = x.abs().amax(1)  # NaN where a row holds one
    is_number = magnitude.isfinite()
    is_some = is_number & (magnitude >= LEAST_MAGNITUDE)
    # A number divided by a tensor would be its reciprocal, rounded, times the number.
    factor = torch.where(is_some, torch.full_like(magnitude, HIGHEST) / magnitude, 0.0)
    q = torch.where(is_some[:, None], x * factor[:, None], 0.0).round().to(torch.int8)
    scale = torch.where(is_some, magnitude / HIGHEST, 0.0)
    return q, torch.where(is_number, scale, float("nan"))


def pack(
    weight: torch.Tensor, bias: torch.Tensor | None, out_dtype: torch.dtype
) -> Callable[[torch.Tensor], torch.Tensor]:
    q_NK, scale_N = quantize_rows(weight)

    def multiply(x: torch.Tensor) -> torch.Tensor:
        q_TK, scale_T = quantize_rows(x)
        # Sums of whole numbers far below 2^53: float64 has each of them exactly.
        sums = (q_TK.double() @ q_NK.double().T).float()
        y = sums * scale_N * scale_T[:, None]
        return (y if bias is None else y + bias.float()).to(out_dtype)

    return multiply
