"""Linear in plain torch: the definition."""

from collections.abc import Callable

import torch
import torch.nn.functional as F

from thothy_kernels.invariance import pack_float32


def pack(weight: torch.Tensor, bias: torch.Tensor | None) -> Callable[[torch.Tensor], torch.Tensor]:
    if weight.dtype == torch.float32 and weight.device.type == "cpu":
        return pack_float32(weight, bias)
    return lambda x: F.linear(x, weight, bias)
