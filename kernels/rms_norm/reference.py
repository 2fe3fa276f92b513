"""rms_norm and add_rms_norm in plain torch: the definition."""

import torch


def rms_norm(
    x: torch.Tensor, weight: torch.Tensor, eps: float, weight_offset: float
) -> torch.Tensor:
    wide = x.contiguous().float()
    normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    if weight_offset == 0.0:
        return normed.to(x.dtype) * weight
    return (normed * (weight.float() + weight_offset)).to(x.dtype)


def add_rms_norm(
    x: torch.Tensor, delta: torch.Tensor, weight: torch.Tensor, eps: float, weight_offset: float
) -> tuple[torch.Tensor, torch.Tensor]:
    total = (x + delta).contiguous()
    return total, rms_norm(total, weight, eps, weight_offset)
