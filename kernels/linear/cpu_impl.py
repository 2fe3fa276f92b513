"""Linear on the CPU: bfloat16 by oneDNN with prepacked weights, float32 by MKL."""

from collections.abc import Callable

import torch

from thothy_kernels.linear.invariance import InvariantLinear


def pack(weight: torch.Tensor, bias: torch.Tensor | None) -> Callable[[torch.Tensor], torch.Tensor]:
    if weight.dtype == torch.float32:
        return InvariantLinear(weight, bias)
    return _Prepacked(weight.contiguous(), bias)


class _Prepacked:
    """A bfloat16 weight in the layout that oneDNN multiplies fastest."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight, None)
        self._bias = bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "none", [], "")
