"""The product of 8 bits on the CPU: oneDNN between two compiled passes.

Activations go in as unsigned bytes, 128 above their value: oneDNN takes the 128 out again, from
sums of the weights' columns that it made when it packed them. Signed ones would be multiplied only
with AMX; with AVX-512 VNNI alone they end in oneDNN's plain loops, a thousand times slower.
"""

from collections.abc import Callable
from functools import cache

import torch

from thothy_kernels.linear_int8 import HIGHEST
from thothy_kernels.linear_int8.rows import quantize_rows, scale_rows

_ZERO_POINT = 128
# More rows at once gain nothing, and their products in float32 would be more memory to go through.
_MOST_ROWS = 512


def pack(
    weight: torch.Tensor, bias: torch.Tensor | None, out_dtype: torch.dtype
) -> Callable[[torch.Tensor], torch.Tensor]:
    return _Prepacked(weight, bias, out_dtype)


class _Prepacked:
    """Bytes in the layout that oneDNN multiplies fastest."""

    def __init__(
        self, weight: torch.Tensor, bias: torch.Tensor | None, out_dtype: torch.dtype
    ) -> None:
        q, scale_N = quantize_rows(weight.contiguous(), 0)
        self._product = _Product(q.view(torch.int8), scale_N)
        self._bias = None if bias is None else bias.float()
        self._out_dtype = out_dtype
        self._multiply = self._product if _sums_are_exact() else self._product.of_halves

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        x = x.contiguous()
        if x.shape[0] <= _MOST_ROWS:
            return self._some_rows(x)
        return torch.cat([self._some_rows(part) for part in x.split(_MOST_ROWS)])

    def _some_rows(self, x: torch.Tensor) -> torch.Tensor:
        q, scale_T = quantize_rows(x, _ZERO_POINT)
        return scale_rows(self._multiply(q), scale_T, self._bias, self._out_dtype)


class _Product:
    """Bytes [T, K] times the packed weight, each channel by its scale: float32 [T, N]."""

    def __init__(self, q_NK: torch.Tensor, scale_N: torch.Tensor) -> None:
        self.num_outputs = q_NK.shape[0]
        self._weight = torch.ops.onednn.qlinear_prepack(q_NK, None)
        self._scale = scale_N
        self._no_scale = torch.ones(self.num_outputs)
        self._no_shift = torch.zeros(self.num_outputs, dtype=torch.int32)

    def __call__(self, q: torch.Tensor) -> torch.Tensor:
        return self._multiply(q, _ZERO_POINT, self._scale)

    def of_halves(self, q: torch.Tensor) -> torch.Tensor:
        """Positive and negative activations by themselves, where pairs of full bytes are cut off.

        Without VNNI two products are added in 16 bits: of bytes up to 127 their sum fits. The same
        bits as otherwise, but where a half's sum is beyond 2^24 and so rounded before the other's.
        """
        value = q.to(torch.int16) - _ZERO_POINT
        halves = torch.cat((value.clamp_min(0), (-value).clamp_min(0))).to(torch.uint8)
        positive, negative = self._multiply(halves, 0, self._no_scale).chunk(2)
        return (positive - negative).mul_(self._scale)

    def _multiply(self, q: torch.Tensor, zero_point: int, scale: torch.Tensor) -> torch.Tensor:
        activations, weights = (q, 1.0, zero_point), (self._weight, scale, self._no_shift)
        products: torch.Tensor = torch.ops.onednn.qlinear_pointwise.default(
            *activations, *weights, None, 1.0, 0, torch.float32, "none", [], ""
        )
        return products


@cache
def _sums_are_exact() -> bool:
    """Whether this processor's sums of products of bytes are: measured, since it is oneDNN that
    picks the instructions. Those without VNNI add pairs in 16 bits, cut off at their end."""
    N, K = 64, 64
    product = _Product(torch.full((N, K), HIGHEST, dtype=torch.int8), torch.ones(N))
    sums = product(torch.full((1, K), 255, dtype=torch.uint8))
    return bool((sums == K * HIGHEST * HIGHEST).all())
