"""Norms, gates and rotations on the device at the sizes of real models, against float64.

Odd sizes, strides and limits have their tests beside the operations, and run on a device as well.
"""

import pytest
import test_gated_activation as gates
import test_rms_norm as norms
import test_rope_and_write as ropes
import torch
from device_place import DTYPES, sizes
from rounding_oracle import norm_error

pytestmark = pytest.mark.gpu

each_dtype = pytest.mark.parametrize("dtype", DTYPES)
NORM_SIZES = sizes([(4096, 1024), (1000, 4096), (257, 5120), (64, 8192)], [(3, 1024)])
GATE_SIZES = sizes([(4096, 3072), (300, 14336), (64, 28672)], [(3, 3072)])


@each_dtype
@pytest.mark.parametrize("offset", [0.0, 1.0])
@pytest.mark.parametrize("size", NORM_SIZES)
def test_norms_are_within_rounding(
    size: tuple[int, int], offset: float, dtype: torch.dtype
) -> None:
    x, weight = norms._inputs(*size, dtype)
    exact = norms._exact(x, weight, 1e-6, offset)
    # See test_rms_norm; below float16's range each rounding lacks half of an even step.
    share, even = norm_error(x), torch.zeros(size[1]).double()
    if dtype != torch.float32:
        info = torch.finfo(dtype)
        factor = weight.double().abs() + offset
        share = (norms.once_rounded if offset else norms.twice_rounded)(share, dtype)
        even = info.smallest_normal * info.eps / 2 * (1 + factor)
    normed = norms.rms_norm(x, weight, 1e-6, weight_offset=offset, impl="triton")
    assert ((normed.double() - exact).abs() <= exact.abs() * share + even).all()


@each_dtype
@pytest.mark.parametrize("size", NORM_SIZES)
def test_sum_and_norm_are_the_bits_of_the_two_steps(
    size: tuple[int, int], dtype: torch.dtype
) -> None:
    x, weight = norms._inputs(*size, dtype)
    delta = x.roll(1, 0) / 7
    total, normed = norms.add_rms_norm(x, delta, weight, 1e-6, impl="triton")
    assert torch.equal(total, x + delta)
    assert torch.equal(normed, norms.rms_norm(x + delta, weight, 1e-6, impl="triton"))


@each_dtype
@pytest.mark.parametrize("activation", gates.ACTIVATIONS)
@pytest.mark.parametrize("size", GATE_SIZES)
def test_gates_are_within_rounding(
    size: tuple[int, int], activation: str, dtype: torch.dtype
) -> None:
    gate_up = gates._gate_up(*size, dtype)
    exact = gates._exact(gate_up, activation)
    bound = gates._float32_bound(gate_up, activation)
    if dtype != torch.float32:
        info = torch.finfo(dtype)
        bound += (exact.abs() + bound + info.smallest_normal) * info.eps / 2
    out = gates.gated(gate_up, activation=activation, impl="triton")
    assert out.dtype == dtype
    assert ((out.double() - exact).abs() <= bound).all()


# Llama 8B; Qwen3 0.6B, whose heads have norms; Gemma, whose norms have an offset.
MODELS = [((32, 8, 128), "none"), ((16, 8, 128), "weight"), ((8, 4, 256), "offset")]


@each_dtype
@pytest.mark.parametrize(("heads", "norm"), MODELS)
def test_rotated_heads_are_within_rounding_and_stored(
    heads: tuple[int, int, int], norm: str, dtype: torch.dtype
) -> None:
    ropes.test_triton_is_within_rounding_of_the_definition(heads, dtype, norm)
