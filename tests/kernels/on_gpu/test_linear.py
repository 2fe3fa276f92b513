"""cuBLAS behind pack_linear: within what float32 sums and the dtype lose, and never TF32."""

import pytest
import torch
from device_place import DEVICE, sizes
from rounding_oracle import product_of

from thothy_kernels.linear import pack_linear

pytestmark = pytest.mark.gpu

# [N, K]: merged qkv and down of Qwen3 0.6B, the same of Llama 8B, odd ones.
SHAPES = sizes([(4096, 1024), (1024, 3072), (6144, 4096), (4096, 14336), (333, 77)], [(33, 17)])
ROWS = sizes([1, 17, 300], [1, 9])


def matrices(
    shape: tuple[int, int], rows: int, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator(DEVICE).manual_seed(rows)
    dims = (shape, shape[:1], (rows, shape[1]))
    weight, bias, x = (torch.randn(dim, device=DEVICE, generator=generator) for dim in dims)
    return weight.to(dtype), bias.to(dtype), x.to(dtype)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_are_within_rounding_of_float64(
    dtype: torch.dtype, shape: tuple[int, int], rows: int
) -> None:
    weight, bias, x = matrices(shape, rows, dtype)
    y = pack_linear(weight, bias, impl="triton")(x)
    exact, bound = product_of(x, weight, bias)
    # As for other implementations (tests/kernels/linear/test_linear.py); but cuBLAS may cut a long
    # sum and round each part to bfloat16.
    if dtype == torch.bfloat16:
        half_step = torch.finfo(dtype).eps / 2
        parts = x.double().abs() @ weight.double().abs().T
        bound += half_step * (parts + exact.abs() + bias.double().abs() + bound)
        bound += half_step * (exact.abs() + bound)
    assert y.dtype == dtype
    assert ((y - exact).abs() <= bound).all()


def test_float32_is_not_multiplied_in_tf32() -> None:
    """TF32 keeps 10 bits of each factor: a relative error near 2^-12 of a typical sum. float32's
    is thousands of times less: a deviation of each of 30,000 results, and more than three times
    that in the mean over the orders of its sum (see rounding_oracle)."""
    weight, bias, x = matrices((512, 2048), 64, torch.float32)
    exact, nine_deviations = product_of(x, weight, bias)
    y = pack_linear(weight, bias, impl="triton")(x)
    assert (y - exact).norm() < nine_deviations.norm() / 9
