"""rms_norm against float64, and a row's independence of its batch."""

import pytest
import torch

from thothy_kernels.rms_norm import rms_norm

IMPLS = ("reference", "cpu")
SIZES = (1, 8, 16, 50, 64, 333, 1024)


def _inputs(rows, N, dtype=torch.float32):
    generator = torch.Generator().manual_seed(N)
    x = torch.randn(rows, N, generator=generator) * 3
    return x.to(dtype), torch.randn(N, generator=generator).to(dtype)


def _exact(x, weight, eps, offset=0.0):
    x = x.double()
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * (weight.double() + offset)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("offset", [0.0, 1.0])
@pytest.mark.parametrize("N", SIZES)
def test_float32_is_within_rounding_of_the_definition(N, offset, impl):
    x, weight = _inputs(9, N)
    exact = _exact(x, weight, 1e-6, offset)
    # Positive summands: a relative error of at most N/2 roundings, halved by the root; then four.
    bound = exact.abs() * (N / 4 + 4) * torch.finfo(torch.float32).eps
    normed = rms_norm(x, weight, 1e-6, weight_offset=offset, impl=impl)
    assert ((normed - exact).abs() <= bound).all()


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("N", SIZES)
def test_bfloat16_rounds_before_and_after_the_weight(N, impl):
    x, weight = _inputs(9, N, torch.bfloat16)
    exact = _exact(x, weight, 1e-6)
    step = torch.finfo(torch.bfloat16).eps  # two roundings of half a step each
    assert ((rms_norm(x, weight, 1e-6, impl=impl) - exact).abs() <= exact.abs() * step * 1.02).all()


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("N", SIZES)
def test_bfloat16_with_an_offset_rounds_once(N, impl):
    x, weight = _inputs(9, N, torch.bfloat16)
    exact = _exact(x, weight, 1e-6, 1.0)
    normed = rms_norm(x, weight, 1e-6, weight_offset=1.0, impl=impl)
    assert normed.dtype == torch.bfloat16
    # Half a step, and what float32 lacked before it.
    share = torch.finfo(torch.bfloat16).eps / 2 + (N / 4 + 4) * torch.finfo(torch.float32).eps
    assert ((normed - exact).abs() <= exact.abs() * share).all()


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("offset", [0.0, 1.0])
@pytest.mark.parametrize("N", SIZES)
def test_row_alone_equals_row_in_batch(N, offset, impl):
    x, weight = _inputs(1200, N)
    whole = rms_norm(x, weight, 1e-6, weight_offset=offset, impl=impl)
    for rows in (slice(0, 1), slice(3, 8), slice(1199, 1200), slice(0, 700)):
        part = rms_norm(x[rows], weight, 1e-6, weight_offset=offset, impl=impl)
        assert torch.equal(part, whole[rows])


@pytest.mark.parametrize("impl", IMPLS)
def test_heads_of_a_merged_projection_are_rows(impl):
    x, weight = _inputs(5, 16)
    merged = torch.randn(5, 3, 48)
    merged[:, 1, 16:32] = x
    view = merged[:, :, 16:32]
    assert torch.equal(
        rms_norm(view, weight, 1e-5, impl=impl)[:, 1], rms_norm(x, weight, 1e-5, impl=impl)
    )
    assert rms_norm(x[:0], weight, 1e-5, impl=impl).shape == (0, 16)


def test_bad_arguments_are_refused_by_name():
    x, weight = _inputs(2, 16)
    for message, bad in (
        ("x is torch.float64", (x.double(), weight, 1e-6, "cpu")),
        ("weight is", (x, weight[:8], 1e-6, "cpu")),
        ("weight is torch.bfloat16", (x, weight.bfloat16(), 1e-6, "cpu")),
        ("there are reference, cpu", (x, weight, 1e-6, "auto")),
    ):
        with pytest.raises(ValueError, match=message):
            rms_norm(*bad[:3], impl=bad[3])
