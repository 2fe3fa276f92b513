"""silu_mul against float64, and a row's independence of its batch."""

import pytest
import torch

from thothy_kernels.gated_activation import silu_mul

IMPLS = ("reference", "cpu")
SIZES = (1, 8, 33, 172, 3072)


def _gate_up(rows, F, dtype=torch.float32):
    generator = torch.Generator().manual_seed(F)
    return (torch.randn(rows, 2 * F, generator=generator) * 6).to(dtype)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("F", SIZES)
def test_is_within_rounding_of_the_definition(F, dtype, impl):
    gate_up = _gate_up(5, F, dtype)
    gate, up = gate_up.double().chunk(2, dim=-1)
    exact = gate / (1 + (-gate).exp()) * up
    # The exponential (two roundings), the sum, the quotient, the product; then the dtype.
    bound = exact.abs() * 6 * torch.finfo(torch.float32).eps
    if dtype == torch.bfloat16:
        bound += exact.abs() * torch.finfo(dtype).eps / 2
    assert ((silu_mul(gate_up, impl=impl) - exact).abs() <= bound).all()


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("F", SIZES)
def test_row_alone_equals_row_in_batch(F, impl):
    gate_up = _gate_up(200, F)
    whole = silu_mul(gate_up, impl=impl)
    for rows in (slice(0, 1), slice(3, 8), slice(199, 200), slice(0, 100)):
        assert torch.equal(silu_mul(gate_up[rows], impl=impl), whole[rows])


@pytest.mark.parametrize("impl", IMPLS)
def test_far_gates_saturate_and_nan_stays_nan(impl):
    gates = torch.tensor([[-1e30, -200.0, -88.0, 0.0, 88.0, 200.0, 1e30, torch.nan]])
    out = silu_mul(torch.cat((gates, torch.ones_like(gates)), dim=1), impl=impl)[0]
    assert out[:2].tolist() == [0.0, 0.0]
    assert -1e-35 < out[2] <= 0
    assert out[3:7].tolist() == gates[0, 3:7].tolist()
    assert out[7].isnan()


def test_bad_arguments_are_refused_by_name():
    gate_up = _gate_up(2, 8)
    for message, bad in (
        ("gate_up is torch.float32 \\[2, 15\\]", gate_up[:, :15]),
        ("gate_up is torch.float64", gate_up.double()),
    ):
        with pytest.raises(ValueError, match=message):
            silu_mul(bad, impl="cpu")
    with pytest.raises(ValueError, match="there are reference, cpu"):
        silu_mul(gate_up, impl="")
    assert silu_mul(gate_up[:0], impl="cpu").shape == (0, 8)
