"""Linear on the CPU: oneDNN with prepacked weights; small float32 weights by MKL.

Measured on AMD Zen 5, one thread: oneDNN reaches about 200 GFLOP/s in float32 (MKL 90) and 390 in
bfloat16, and with 8 rows of a 1024 x 3072 weight 130 against MKL's 38. But a call costs 15
microseconds more, so up to about 2^16 elements MKL is faster at the batch sizes of decoding.
"""

from collections.abc import Callable

import torch

from thothy_kernels.linear.invariance import InvariantLinear, padded_rows

_LEAST_ELEMENTS_TO_PACK = 1 << 16


def pack(weight: torch.Tensor, bias: torch.Tensor | None) -> Callable[[torch.Tensor], torch.Tensor]:
    if weight.dtype == torch.float32 and weight.numel() < _LEAST_ELEMENTS_TO_PACK:
        return InvariantLinear(weight, bias)
    return _Prepacked(weight, bias)


class _Prepacked:
    """A weight in the layout that oneDNN multiplies fastest."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None)
        self._bias = bias
        self._keeps_bits = weight.dtype == torch.float32

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        rows = padded_rows(x) if self._keeps_bits else x
        y = torch.ops.mkldnn._linear_pointwise(rows, self._weight, self._bias, "none", [], "")
        return y[: x.shape[0]]
