"""int8 linear on the CPU: oneDNN between two Numba passes.

Activations are passed as unsigned bytes, 128 above their value: oneDNN subtracts the 128 by sums of
the weight's rows that it computed when packing. It multiplies signed activations fast only with
AMX; with AVX-512 VNNI alone they fall to plain loops, a thousand times slower.
"""

from collections.abc import Callable
from functools import cache

import torch

from thothy_kernels.linear_int8 import HIGHEST
from thothy_kernels.linear_int8.rows import pass_kernels, quantize_rows, scale_rows
from thothy_kernels.numba_simd.functions import Compiled

_ZERO_POINT = 128
# More rows at once gain nothing, and their float32 products would need more memory.
_MOST_ROWS = 512


def pack(
    weight: torch.Tensor, bias: torch.Tensor | None, out_dtype: torch.dtype
) -> Callable[[torch.Tensor], torch.Tensor]:
    """The packed int8 product with weight [N, K] and bias [N] or None."""
    return _Prepacked(weight, bias, out_dtype)


def kernels(dtype: torch.dtype, has_bias: bool) -> tuple[Compiled, ...]:
    """The kernels that a model of a dtype needs; `has_bias`: some of its products have one."""
    return pass_kernels(dtype, has_bias)


class _Prepacked:
    """A quantised weight and bias, in oneDNN's packed layout."""

    def __init__(
        self, weight: torch.Tensor, bias: torch.Tensor | None, out_dtype: torch.dtype
    ) -> None:
        q, scale_N = quantize_rows(weight.contiguous(), 0)
        self._product = _Product(q.view(torch.int8), scale_N)
        self._bias = None if bias is None else bias.float()
        self._out_dtype = out_dtype
        self._multiply = self._product if _sums_are_exact() else self._product.by_sign

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        x = x.contiguous()
        if x.shape[0] <= _MOST_ROWS:
            return self._multiply_rows(x)
        return torch.cat([self._multiply_rows(part) for part in x.split(_MOST_ROWS)])

    def _multiply_rows(self, x: torch.Tensor) -> torch.Tensor:
        q, scale_T = quantize_rows(x, _ZERO_POINT)
        return scale_rows(self._multiply(q), scale_T, self._bias, self._out_dtype)


class _Product:
    """float32 [T, N] = bytes [T, K] times the packed weight, times the scale of each channel."""

    def __init__(self, q_NK: torch.Tensor, scale_N: torch.Tensor) -> None:
        self.num_outputs = q_NK.shape[0]
        self._weight = torch.ops.onednn.qlinear_prepack(q_NK, None)
        self._scale = scale_N
        self._no_scale = torch.ones(self.num_outputs)
        self._no_shift = torch.zeros(self.num_outputs, dtype=torch.int32)

    def __call__(self, q: torch.Tensor) -> torch.Tensor:
        return self._multiply(q, _ZERO_POINT, self._scale)

    def by_sign(self, q: torch.Tensor) -> torch.Tensor:
        """The product, with positive and negative activations multiplied separately.

        Without VNNI two products are added in 16 bits with saturation; for bytes up to 127 their
        sum fits. The bits differ from those of the direct product only where one sign's sum exceeds
        2^24 and is rounded.
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
    """True if sums of byte products do not saturate on this processor.

    Measured, because oneDNN picks the instructions; those without VNNI add pairs in 16 bits.
    """
    N, K = 64, 64
    product = _Product(torch.full((N, K), HIGHEST, dtype=torch.int8), torch.ones(N))
    sums = product(torch.full((1, K), 255, dtype=torch.uint8))
    return bool((sums == K * HIGHEST * HIGHEST).all())
