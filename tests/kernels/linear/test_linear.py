"""Linear: within rounding of float64, and in float32 a row has the same bits in every batch."""

import pytest
import torch
from rounding_oracle import product_of
from thread_counts import on_threads

from thothy_kernels import invariance
from thothy_kernels.linear import pack_linear

IMPLS = ("reference", "cpu")
# (out, in): odd, narrow, wide, and the shapes of small models.
SHAPES = [(1, 8), (7, 5), (33, 17), (64, 172), (127, 63), (512, 64), (1000, 256), (333, 2051)]
BATCHES = (1, 2, 3, 4, 5, 7, 8, 9, 15, 17, 31, 33, 64, 100, 255, 600)


def _matrices(N, K, rows, dtype=torch.float32):
    generator = torch.Generator().manual_seed(N * 1000 + K)
    return (
        torch.randn(N, K, generator=generator).to(dtype),
        torch.randn(N, generator=generator).to(dtype),
        torch.randn(rows, K, generator=generator).to(dtype),
    )


@pytest.mark.few(16)
@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("has_bias", [False, True])
def test_products_are_within_rounding_of_float64(shape, dtype, impl, has_bias):
    weight, bias, x = _matrices(*shape, 19, dtype)
    linear = pack_linear(weight, bias if has_bias else None, impl=impl)
    y = linear(x)
    exact, lost = product_of(x, weight, bias if has_bias else None)
    if dtype == torch.bfloat16:  # rounded at the end, and perhaps once more before the bias
        half_step = torch.finfo(dtype).eps / 2
        lost += half_step * (exact.abs() + bias.double().abs() + lost)
        lost += half_step * (exact.abs() + lost)
    assert y.dtype == dtype
    assert ((y - exact).abs() <= lost).all()


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("shape", SHAPES)
def test_float32_row_alone_equals_row_in_batch(shape, impl):
    weight, bias, x = _matrices(*shape, max(BATCHES))
    linear = pack_linear(weight, bias, impl=impl)
    whole = linear(x)
    for size in BATCHES:
        assert torch.equal(linear(x[:size]), whole[:size]), f"first {size} rows"
        assert torch.equal(linear(x[-size:]), whole[-size:]), f"last {size} rows"


def test_where_mkl_moves_bits_no_row_gets_others(monkeypatch):
    monkeypatch.setattr(invariance, "mkl_keeps_bits", lambda: False)
    weight, bias, x = _matrices(48, 80, 64)
    linear = pack_linear(weight, bias, impl="cpu")
    whole = linear(x)
    keys = torch.randn(2, 80, 256, generator=torch.Generator().manual_seed(0))
    batches = invariance.multiply_batches(torch.stack((x, -x)), keys)
    for sign, batch, right in zip((1, -1), batches, keys, strict=True):
        exact, lost = product_of(sign * x, right.T, None)
        assert ((batch - exact).abs() <= lost).all()
    for size in (8, 16, 24, 32, 56):
        assert torch.equal(linear(x[:size]), whole[:size])
        parts = invariance.multiply_batches(torch.stack((x[:size], -x[:size])), keys)
        assert torch.equal(parts, batches[:, :size])


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("shape", [(512, 64), (1000, 256)])
def test_number_of_threads_changes_no_bit_in_float32(shape, impl):
    weight, bias, x = _matrices(*shape, 100)
    linear = pack_linear(weight, bias, impl=impl)
    for size in (1, 9, 100):
        one, two = on_threads(lambda size=size: linear(x[:size]), 1, 2)
        assert torch.equal(one, two)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_rows_give_no_rows_and_the_plain_weight_may_go(impl, dtype):
    weight, bias, x = _matrices(12, 8, 3, dtype)
    linear = pack_linear(weight, bias, impl=impl)
    assert linear(x[:0]).shape == (0, 12)
    assert (linear.in_features, linear.out_features, linear.impl) == (8, 12, impl)


def test_bad_arguments_are_refused_by_name():
    weight, bias, x = _matrices(12, 8, 3)
    with pytest.raises(ValueError, match="no implementation 'magic'; there are reference, cpu"):
        pack_linear(weight, None, impl="magic")
    with pytest.raises(ValueError, match="weight is torch.float16"):
        pack_linear(weight.half(), None, impl="cpu")
    with pytest.raises(ValueError, match="bias is torch.float32"):
        pack_linear(weight, bias[:3], impl="cpu")
    linear = pack_linear(weight, bias, impl="cpu")
    for wrong in (x[:, :4], x.bfloat16(), x[0]):
        with pytest.raises(ValueError, match="x is"):
            linear(wrong)
