"""pack_linear_int8 in plain torch: the definition."""

from collections.abc import Callable

import torch

from thothy_kernels.linear_int8 import HIGHEST, LEAST_MAGNITUDE


def quantize_rows(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantise x [T, K]: (q int8 [T, K], s float32 [T]) with x about q * s."""
    x = x.float()
    magnitude = x.abs().amax(1)  # NaN for a row that holds one
    is_number = magnitude.isfinite()
    is_some = is_number & (magnitude >= LEAST_MAGNITUDE)
    # A Python number divided by a tensor would multiply by the rounded reciprocal.
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
        # Sums of whole numbers far below 2^53 are exact in float64.
        sums = (q_TK.double() @ q_NK.double().T).float()
        y = sums * scale_N * scale_T[:, None]
        return (y if bias is None else y + bias.float()).to(out_dtype)

    return multiply
