"""rms_norm against float64, a row's independence of its batch, and add_rms_norm by its parts."""

import pytest
import torch
from rounding_oracle import norm_error

from thothy_kernels import rms_norm as contract
from thothy_kernels.launch import is_interpreted
from thothy_kernels.rms_norm import triton_impl

IMPLS = ("reference", "cpu", "triton")
SIZES = (1, 8, 16, 50, 64, 333, 1024)
# Triton's interpreter truncates to bfloat16 where a device rounds: float16 stands in for it there.
BFLOAT16_IMPLS = ("reference", "cpu") if is_interpreted() else IMPLS
CASES = [(impl, torch.float32) for impl in IMPLS]
CASES += [(impl, torch.bfloat16) for impl in BFLOAT16_IMPLS] + [("triton", torch.float16)]
# Triton is interpreted where there is no device: with fewer rows there.
NUM_ROWS = {"reference": 1200, "cpu": 1200, "triton": 70}
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def _on_device(function):
    """The function on tensors of the CPU, computed where the implementation computes."""

    def moved(*args, impl, **named):
        if impl != "triton":
            return function(*args, impl=impl, **named)
        args = [arg.to(DEVICE) if isinstance(arg, torch.Tensor) else arg for arg in args]
        if args[0].dtype == torch.float16:  # no contract accepts it
            own = getattr(triton_impl, function.__name__)
            result = own(*args, named.get("weight_offset", 0.0))
        else:
            result = function(*args, impl=impl, **named)
        return tuple(r.cpu() for r in result) if isinstance(result, tuple) else result.cpu()

    return moved


rms_norm = _on_device(contract.rms_norm)
add_rms_norm = _on_device(contract.add_rms_norm)


def _inputs(rows, N, dtype=torch.float32):
    generator = torch.Generator().manual_seed(N)
    x = torch.randn(rows, N, generator=generator) * 3
    return x.to(dtype), torch.randn(N, generator=generator).to(dtype)


def _exact(x, weight, eps, offset=0.0):
    x = x.double()
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * (weight.double() + offset)


def once_rounded(share, dtype):
    """A share that is lost, and half a step of the dtype of what is left."""
    half_step = torch.finfo(dtype).eps / 2
    return (1 + share) * (1 + half_step) - 1


def twice_rounded(share, dtype):
    """Before the weight and after it."""
    return once_rounded(once_rounded(share, dtype), dtype)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("offset", [0.0, 1.0])
@pytest.mark.parametrize("N", SIZES)
def test_float32_is_within_rounding_of_the_definition(N, offset, impl):
    x, weight = _inputs(9, N)
    exact = _exact(x, weight, 1e-6, offset)
    bound = exact.abs() * norm_error(x)
    normed = rms_norm(x, weight, 1e-6, weight_offset=offset, impl=impl)
    assert ((normed - exact).abs() <= bound).all()


@pytest.mark.parametrize("impl", BFLOAT16_IMPLS)
@pytest.mark.parametrize("N", SIZES)
def test_bfloat16_rounds_before_and_after_the_weight(N, impl):
    x, weight = _inputs(9, N, torch.bfloat16)
    exact = _exact(x, weight, 1e-6)
    share = twice_rounded(norm_error(x), torch.bfloat16)
    assert ((rms_norm(x, weight, 1e-6, impl=impl) - exact).abs() <= exact.abs() * share).all()


@pytest.mark.parametrize("impl", BFLOAT16_IMPLS)
@pytest.mark.parametrize("N", SIZES)
def test_bfloat16_with_an_offset_rounds_once(N, impl):
    x, weight = _inputs(9, N, torch.bfloat16)
    exact = _exact(x, weight, 1e-6, 1.0)
    normed = rms_norm(x, weight, 1e-6, weight_offset=1.0, impl=impl)
    assert normed.dtype == torch.bfloat16
    share = once_rounded(norm_error(x), torch.bfloat16)
    assert ((normed - exact).abs() <= exact.abs() * share).all()


@pytest.mark.few(6)
@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("offset", [0.0, 1.0])
@pytest.mark.parametrize("N", SIZES)
def test_row_alone_equals_row_in_batch(N, offset, impl):
    x, weight = _inputs(NUM_ROWS[impl], N)
    whole = rms_norm(x, weight, 1e-6, weight_offset=offset, impl=impl)
    last = len(x) - 1
    for rows in (slice(0, 1), slice(3, 8), slice(last, last + 1), slice(0, len(x) // 2)):
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


@pytest.mark.few(8)
@pytest.mark.parametrize(("impl", "dtype"), CASES)
@pytest.mark.parametrize("offset", [0.0, 1.0])
@pytest.mark.parametrize("N", SIZES)
def test_sum_and_norm_are_the_bits_of_the_two_steps(N, dtype, offset, impl):
    x, weight = _inputs(9, N, dtype)
    # Sums of such unequal parts are rounded almost everywhere.
    delta = (torch.randn(9, N, generator=torch.Generator().manual_seed(1)) / 7).to(dtype)
    total, normed = add_rms_norm(x, delta, weight, 1e-6, weight_offset=offset, impl=impl)
    assert total.dtype == normed.dtype == dtype
    assert torch.equal(total, x + delta)
    assert torch.equal(normed, rms_norm(x + delta, weight, 1e-6, weight_offset=offset, impl=impl))


@pytest.mark.parametrize(("impl", "dtype"), CASES)
def test_summands_may_be_views_and_are_left_as_they_were(dtype, impl):
    x, weight = _inputs(7, 50, dtype)
    both = torch.full((7, 120), torch.nan, dtype=dtype)
    both[:, 3:53], both[:, 60:110] = x, x.flip(0)
    before = both.clone()
    found = add_rms_norm(both[:, 3:53], both[:, 60:110], weight, 1e-6, impl=impl)
    wanted = add_rms_norm(x, x.flip(0), weight, 1e-6, impl=impl)
    assert all(map(torch.equal, found, wanted))
    assert torch.equal(both.nan_to_num(9.0), before.nan_to_num(9.0))
    empty = add_rms_norm(x[:0], x[:0], weight, 1e-6, impl=impl)
    assert [part.shape for part in empty] == [(0, 50), (0, 50)]


@pytest.mark.parametrize("impl", IMPLS)
def test_shapes_of_any_depth_are_rows(impl):
    x, weight = _inputs(12, 16)
    wanted = rms_norm(x, weight, 1e-6, impl=impl)
    for shape in ((2, 6, 16), (2, 3, 2, 16), (12, 1, 16)):
        assert torch.equal(rms_norm(x.view(shape), weight, 1e-6, impl=impl), wanted.view(shape))
    turned = x.view(2, 6, 16).transpose(0, 1)
    found = rms_norm(turned, weight, 1e-6, impl=impl)
    assert torch.equal(found, wanted.view(2, 6, 16).transpose(0, 1))
    assert torch.equal(rms_norm(x[5], weight, 1e-6, impl=impl), wanted[5])
    assert torch.equal(rms_norm(x.t().contiguous().t(), weight, 1e-6, impl=impl), wanted)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("N", [16, 333])
def test_nan_stays_in_its_row(N, impl):
    x, weight = _inputs(9, N)
    x[3, 2] = x[7, 0] = torch.nan
    delta = torch.zeros_like(x)
    delta[5, 1] = torch.nan
    _, normed = add_rms_norm(x, delta, weight, 1e-6, impl=impl)
    assert normed[[3, 5, 7]].isnan().all()
    broken = normed.isnan().any(1)
    assert broken.nonzero().flatten().tolist() == [3, 5, 7]
    kept = [0, 1, 2, 4, 6, 8]
    assert torch.equal(normed[kept], rms_norm(x[kept], weight, 1e-6, impl=impl))


@pytest.mark.parametrize("offset", [0.0, 1.0])
@pytest.mark.parametrize("N", SIZES)
def test_float16_in_triton_rounds_like_bfloat16(N, offset):
    x, weight = _inputs(9, N, torch.float16)
    normed = rms_norm(x, weight, 1e-6, weight_offset=offset, impl="triton")
    exact = _exact(x, weight, 1e-6, offset)
    share = (once_rounded if offset else twice_rounded)(norm_error(x), torch.float16)
    # Below its range float16 has even steps, of which each rounding lacks a half; the first is
    # scaled by the weight.
    step = torch.finfo(torch.float16).smallest_normal * torch.finfo(torch.float16).eps
    bound = exact.abs() * share + step / 2 * (1 + weight.double().abs())
    assert ((normed - exact).abs() <= bound).all()


def test_bad_arguments_are_refused_by_name():
    x, weight = _inputs(2, 16)
    for message, bad in (
        ("x is torch.float64", (x.double(), weight, 1e-6, "cpu")),
        ("weight is", (x, weight[:8], 1e-6, "cpu")),
        ("weight is torch.bfloat16", (x, weight.bfloat16(), 1e-6, "cpu")),
        ("there are reference, cpu, triton", (x, weight, 1e-6, "auto")),
    ):
        with pytest.raises(ValueError, match=message):
            rms_norm(*bad[:3], impl=bad[3])
    with pytest.raises(ValueError, match="add_rms_norm: delta is torch.float32 \\[1, 16\\]"):
        add_rms_norm(x, x[:1], weight, 1e-6, impl="cpu")
    with pytest.raises(ValueError, match="add_rms_norm: delta is torch.bfloat16"):
        add_rms_norm(x, x.bfloat16(), weight, 1e-6, impl="cpu")
    with pytest.raises(ValueError, match="add_rms_norm: weight is"):
        add_rms_norm(x, x, weight[:8], 1e-6, impl="cpu")
