"""Linear on the CPU: bfloat16 by oneDNN with prepacked weights, float32 by MKL."""

from collections.abc import Callable

import torch
import torch.nn.functional as F

# Measured: see the comment in reference.py's place of the same constant. A float32 row has the
# same bits with every multiple of 8 rows and with 1 and 2 threads.
_ROW_MULTIPLE = 8


def pack(
    weight: torch.Tensor, bias: torch.Tensor | None
) -> Callable[[torch.Tensor], torch.Tensor]:
    weight = weight.contiguous()
    if weight.dtype == torch.float32:
        return _Float32Linear(weight, bias)
    return _Bfloat16Linear(weight, bias)


class _Float32Linear:
    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self.weight, self.bias = weight, bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        T = x.shape[0]
        missing = -T % _ROW_MULTIPLE
        if not missing:
            return F.linear(x, self.weight, self.bias)
        padded = x.new_zeros((T + missing, x.shape[1]))
        padded[:T] = x
        return F.linear(padded, self.weight, self.bias)[:T]


class _Bfloat16Linear:
    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight, None)
        self.bias = bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
