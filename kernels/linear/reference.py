"""Linear in plain torch: the definition."""

from collections.abc import Callable

import torch
import torch.nn.functional as F

from thothy_kernels.linear.invariance import InvariantLinear


def pack(weight: torch.Tensor, bias: torch.Tensor | None) -> Callable[[torch.Tensor], torch.Tensor]:
    if weight.dtype == torch.float32:
        return InvariantLinear(weight, bias)
    return lambda x: F.linear(x, weight, bias)
