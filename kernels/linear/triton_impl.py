"""Linear on a CUDA device by cuBLAS, which no kernel of ours would beat."""

from collections.abc import Callable

import torch
import torch.nn.functional as F

from thothy_kernels.launch import Variant, check_device


def pack(weight: torch.Tensor, bias: torch.Tensor | None) -> Callable[[torch.Tensor], torch.Tensor]:
    """The product with weight [N, K] and bias [N] or None. ValueError unless on a CUDA device."""
    check_device("linear", weight)
    weight = weight.contiguous()
    return lambda x: F.linear(x, weight, bias)


def variants() -> list[Variant]:
    """No variants: cuBLAS is not compiled here."""
    return []
