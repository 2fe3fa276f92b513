"""Linear on a CUDA device: cuBLAS, which a kernel of ours would not beat."""

from collections.abc import Callable

import torch
import torch.nn.functional as F

from thothy_kernels.launch import Variant, check_device


def pack(weight: torch.Tensor, bias: torch.Tensor | None) -> Callable[[torch.Tensor], torch.Tensor]:
    check_device("linear", weight)
    weight = weight.contiguous()
    return lambda x: F.linear(x, weight, bias)


def variants() -> list[Variant]:
    """None: nothing of it is compiled here."""
    return []
