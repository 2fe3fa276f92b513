"""gated against float64, and a row's independence of its batch."""

import math

import pytest
import torch

from thothy_kernels.gated_activation import ACTIVATIONS, gated

IMPLS = ("reference", "cpu")
SIZES = (1, 8, 33, 172, 3072)

pytestmark = pytest.mark.parametrize("impl", IMPLS)


def _gate_up(rows, F, dtype=torch.float32):
    generator = torch.Generator().manual_seed(F)
    return (torch.randn(rows, 2 * F, generator=generator) * 6).to(dtype)


def _slope(gate, activation):
    if activation == "silu":
        return gate
    return 2 * math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("F", SIZES)
def test_is_within_rounding_of_the_definition(F, dtype, activation, impl):
    gate_up = _gate_up(5, F, dtype)
    gate, up = gate_up.double().chunk(2, dim=-1)
    slope = _slope(gate, activation)
    exact = gate / (1 + (-slope).exp()) * up
    # The exponential (two roundings), the sum, the quotient, the product; then the dtype.
    roundings = 6.0
    if activation == "gelu_tanh":
        # The slope has at most four half roundings (a factor, the square, its product, the last
        # product), and the exponential turns what it lacks into a share of the result.
        roundings = 6 + 2 * slope.abs()
    bound = exact.abs() * roundings * torch.finfo(torch.float32).eps
    # Below float32's range the exponential is infinite and the result 0.
    bound += torch.finfo(torch.float32).tiny * (gate * up).abs()
    if dtype == torch.bfloat16:
        bound += exact.abs() * torch.finfo(dtype).eps / 2
    out = gated(gate_up, activation=activation, impl=impl)
    assert out.dtype == dtype
    assert ((out - exact).abs() <= bound).all()


def test_gelu_tanh_is_that_of_torch(impl):
    gate = torch.linspace(-9, 9, 4001)
    ours = gated(torch.stack((gate, torch.ones_like(gate)), 1), activation="gelu_tanh", impl=impl)
    theirs = torch.nn.functional.gelu(gate.double(), approximate="tanh")
    # 1 + tanh(z) rounds to a multiple of eps / 2 in float64 too: what torch is unsure of.
    unsure = gate.abs() * torch.finfo(torch.float64).eps
    roundings = 6 + 2 * _slope(gate, "gelu_tanh").abs()
    bound = theirs.abs() * roundings * torch.finfo(torch.float32).eps + unsure
    assert ((ours[:, 0] - theirs).abs() <= bound).all()


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("F", SIZES)
def test_row_alone_equals_row_in_batch(F, activation, impl):
    gate_up = _gate_up(200, F)
    whole = gated(gate_up, activation=activation, impl=impl)
    for rows in (slice(0, 1), slice(3, 8), slice(199, 200), slice(0, 100)):
        part = gated(gate_up[rows], activation=activation, impl=impl)
        assert torch.equal(part, whole[rows])


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_far_gates_saturate_and_nan_stays_nan(activation, impl):
    gates = torch.tensor([[-1e30, -200.0, -88.0, 0.0, 88.0, 200.0, 1e30, torch.nan]])
    gate_up = torch.cat((gates, torch.ones_like(gates)), dim=1)
    out = gated(gate_up, activation=activation, impl=impl)[0]
    assert out[:2].tolist() == [0.0, 0.0]
    assert -1e-35 < out[2] <= 0
    assert out[3:7].tolist() == gates[0, 3:7].tolist()
    assert out[7].isnan()


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
    with pytest.raises(ValueError, match="there are reference, cpu"):
        gated(gate_up, activation="silu", impl="")
    assert gated(gate_up[:0], activation="silu", impl=impl).shape == (0, 8)
