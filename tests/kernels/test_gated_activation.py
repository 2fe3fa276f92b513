"""gated against float64, and a row's independence of its batch."""

import math

import pytest
import torch

from thothy_kernels import gated_activation as contract
from thothy_kernels.gated_activation import ACTIVATIONS, triton_impl
from thothy_kernels.launch import is_interpreted

IMPLS = ("reference", "cpu", "triton")
SIZES = (1, 8, 33, 172, 3072)
# Triton's interpreter truncates to bfloat16 where a device rounds: float16 stands in for it there.
CASES = [(impl, torch.float32) for impl in IMPLS]
CASES += [(impl, torch.bfloat16) for impl in IMPLS if impl != "triton" or not is_interpreted()]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

each_impl = pytest.mark.parametrize("impl", IMPLS)


def gated(gate_up, *, activation, impl):
    """The operation on tensors of the CPU, computed where the implementation computes."""
    if impl != "triton":
        return contract.gated(gate_up, activation=activation, impl=impl)
    if gate_up.dtype == torch.float16:  # no contract accepts it
        return triton_impl.gated(gate_up.to(DEVICE), activation).cpu()
    return contract.gated(gate_up.to(DEVICE), activation=activation, impl=impl).cpu()


def _gate_up(rows, F, dtype=torch.float32):
    generator = torch.Generator().manual_seed(F)
    return (torch.randn(rows, 2 * F, generator=generator) * 6).to(dtype)


def _slope(gate, activation):
    if activation == "silu":
        return gate
    return 2 * math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3)


def _exact(gate_up, activation):
    gate, up = gate_up.double().chunk(2, dim=-1)
    return gate / (1 + (-_slope(gate, activation)).exp()) * up


def _float32_bound(gate_up, activation):
    gate, up = gate_up.double().chunk(2, dim=-1)
    # The exponential (two roundings), the sum, the quotient, the product; then the dtype.
    roundings = 6.0
    if activation == "gelu_tanh":
        # The slope has at most four half roundings (a factor, the square, its product, the last
        # product), and the exponential turns what it lacks into a share of the result.
        roundings = 6 + 2 * _slope(gate, activation).abs()
    share = roundings * torch.finfo(torch.float32).eps
    # Below float32's range the exponential is infinite and the result 0.
    return (
        _exact(gate_up, activation).abs() * share
        + torch.finfo(torch.float32).tiny * (gate * up).abs()
    )


@pytest.mark.few(8)
@pytest.mark.parametrize(("impl", "dtype"), CASES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("F", SIZES)
def test_is_within_rounding_of_the_definition(F, dtype, activation, impl):
    gate_up = _gate_up(5, F, dtype)
    exact = _exact(gate_up, activation)
    bound = _float32_bound(gate_up, activation)
    if dtype == torch.bfloat16:
        bound += (exact.abs() + bound) * torch.finfo(dtype).eps / 2
    out = gated(gate_up, activation=activation, impl=impl)
    assert out.dtype == dtype
    assert ((out - exact).abs() <= bound).all()


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("F", SIZES)
def test_float16_in_triton_rounds_once(F, activation):
    gate_up = _gate_up(5, F, torch.float16)
    exact, info = _exact(gate_up, activation), torch.finfo(torch.float16)
    # Half a step, and below the range of float16 half of its even steps.
    lost = _float32_bound(gate_up, activation)
    bound = lost + (exact.abs() + lost + info.smallest_normal) * info.eps / 2
    out = gated(gate_up, activation=activation, impl="triton")
    assert out.dtype == torch.float16
    assert ((out - exact).abs() <= bound).all()


@each_impl
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gates_across_the_whole_range_are_within_rounding(activation, impl):
    """A large exponential would show an error of its argument in the result."""
    gates = torch.linspace(-110, 110, 4001)
    gate_up = torch.cat((gates, torch.full_like(gates, 0.75)))[None]
    exact = _exact(gate_up, activation)
    out = gated(gate_up, activation=activation, impl=impl)
    assert ((out - exact).abs() <= _float32_bound(gate_up, activation)).all()


@pytest.mark.parametrize(("impl", "dtype"), CASES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_rows_may_lie_apart_and_are_left_as_they_were(activation, dtype, impl):
    gate_up = _gate_up(6, 50, dtype)
    wide = torch.full((6, 130), torch.nan, dtype=dtype)
    wide[:, 8:108] = gate_up
    before = wide.clone()
    out = gated(wide[:, 8:108], activation=activation, impl=impl)
    assert torch.equal(out, gated(gate_up, activation=activation, impl=impl))
    assert torch.equal(wide.nan_to_num(9.0), before.nan_to_num(9.0))
    turned = gate_up.t().contiguous().t()
    assert torch.equal(out, gated(turned, activation=activation, impl=impl))


@each_impl
def test_gelu_tanh_is_that_of_torch(impl):
    gate = torch.linspace(-9, 9, 4001)
    gate_up = torch.cat((gate, torch.ones_like(gate)))[None]
    ours = gated(gate_up, activation="gelu_tanh", impl=impl)
    theirs = torch.nn.functional.gelu(gate.double(), approximate="tanh")
    # 1 + tanh(z) rounds to a multiple of eps / 2 in float64 too: what torch is unsure of.
    unsure = gate.abs() * torch.finfo(torch.float64).eps
    roundings = 6 + 2 * _slope(gate, "gelu_tanh").abs()
    bound = theirs.abs() * roundings * torch.finfo(torch.float32).eps + unsure
    assert ((ours[0] - theirs).abs() <= bound).all()


@pytest.mark.few(8)
@each_impl
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("F", SIZES)
def test_row_alone_equals_row_in_batch(F, activation, impl):
    gate_up = _gate_up(200, F)
    whole = gated(gate_up, activation=activation, impl=impl)
    for rows in (slice(0, 1), slice(3, 8), slice(199, 200), slice(0, 100)):
        part = gated(gate_up[rows], activation=activation, impl=impl)
        assert torch.equal(part, whole[rows])


@each_impl
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_far_gates_saturate_and_nan_stays_nan(activation, impl):
    gates = torch.tensor([[-1e30, -200.0, -88.0, 0.0, 88.0, 200.0, 1e30, torch.nan]])
    gate_up = torch.cat((gates, torch.ones_like(gates)), dim=1)
    out = gated(gate_up, activation=activation, impl=impl)[0]
    assert out[:2].tolist() == [0.0, 0.0]
    assert -88 * torch.finfo(torch.float32).tiny < out[2] <= 0  # -88 exp(-88), or 0 below the range
    assert out[3:7].tolist() == gates[0, 3:7].tolist()
    assert out[7].isnan()


@each_impl
def test_bad_arguments_are_refused_by_name(impl):
    gate_up = _gate_up(2, 8)
    for message, bad in (
        ("gate_up is torch.float32 \\[2, 15\\]", gate_up[:, :15]),
        ("gate_up is torch.float64", gate_up.double()),
    ):
        with pytest.raises(ValueError, match=message):
            gated(bad, activation="silu", impl=impl)
    with pytest.raises(ValueError, match="no activation 'relu'; there are silu, gelu_tanh"):
        gated(gate_up, activation="relu", impl=impl)
    with pytest.raises(ValueError, match="there are reference, cpu, triton"):
        gated(gate_up, activation="silu", impl="")
    assert gated(gate_up[:0], activation="silu", impl=impl).shape == (0, 8)
