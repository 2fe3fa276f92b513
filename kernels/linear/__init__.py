"""Linear layers y = x W^T + b, with weights packed once for the implementation.

In float32 a row of y has the same bits alone and in any batch, with any number of threads.
"""

from typing import Protocol

import torch

from thothy_kernels.contract import FLOAT_DTYPES, Implementations, refuse

__all__ = ["PackedLinear", "pack_linear"]

_impls = Implementations(__name__, ("reference", "cpu", "triton"))


class _Multiply(Protocol):
    def __call__(self, x: torch.Tensor) -> torch.Tensor: ...


class PackedLinear:
    """A packed weight matrix, which multiplies when called. The plain weight may be freed."""

    __slots__ = ("_multiply", "dtype", "impl", "in_features", "out_dtype", "out_features")

    def __init__(
        self,
        multiply: _Multiply,
        weight: torch.Tensor,
        impl: str,
        out_dtype: torch.dtype | None = None,
    ) -> None:
        """Wrap `multiply` for weight [N, K]. out_dtype: dtype of products, None: the weight's."""
        self.out_features, self.in_features = weight.shape
        self.dtype = weight.dtype
        self.out_dtype = out_dtype or weight.dtype
        self.impl = impl
        self._multiply = multiply

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """The product of x [T, K], T >= 0, [T, N] in `out_dtype`.

        Raises ValueError unless x has the weight's columns and dtype.
        """
        if x.dim() != 2 or x.shape[1] != self.in_features or x.dtype != self.dtype:
            refuse("linear", "x", x, f"{self.dtype} [T, {self.in_features}]")
        if x.shape[0] == 0:
            return x.new_empty((0, self.out_features), dtype=self.out_dtype)
        return self._multiply(x)


def pack_linear(weight: torch.Tensor, bias: torch.Tensor | None, *, impl: str) -> PackedLinear:
    """Pack weight [N, K] and bias [N] or None, float32 or bfloat16, for many products.

    Raises ValueError for shapes and dtypes that do not fit.
    """
    if weight.dim() != 2 or weight.dtype not in FLOAT_DTYPES or not weight.numel():
        refuse("pack_linear", "weight", weight, "float32 or bfloat16 [N, K], not empty")
    if bias is not None and (bias.shape != weight.shape[:1] or bias.dtype != weight.dtype):
        refuse("pack_linear", "bias", bias, f"{weight.dtype} [{weight.shape[0]}]")
    return PackedLinear(_impls[impl].pack(weight, bias), weight, impl)
