"""bfloat16 products by float32 instructions, which any processor can run."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rounding_oracle import product_of
from thread_counts import on_threads

from thothy_kernels.invariance import Prepacked
from thothy_kernels.linear.bf16_fallback import Bf16Fallback
from thothy_kernels.linear.cpu_impl import pack
from thothy_kernels.linear.register_tile import TILE_OUTPUTS, TILE_ROWS
from thothy_kernels.numba_simd import cpu_features

# (out, in): around a panel and its vectors, odd, shorter than a vector, and of small models.
SHAPES = [(1, 1), (7, 5), (15, 16), (16, 31), (47, 64), (48, 2), (49, 96), (333, 257), (1000, 130)]
BATCHES = (1, 2, 7, 8, 9, 16, 31, 191, 192, 193, 400)


def _matrices(N, K, rows):
    generator = torch.Generator().manual_seed(N * 1000 + K)
    return [
        torch.randn(*size, generator=generator).bfloat16() for size in ((N, K), (N,), (rows, K))
    ]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("has_bias", [False, True])
def test_sums_are_float32_rounded_once(shape, has_bias):
    weight, bias, x = _matrices(*shape, max(BATCHES))
    bias = bias if has_bias else None
    y = Bf16Fallback(weight, bias)(x)
    exact, lost = product_of(x, weight, bias)
    bound = lost + (exact.abs() + lost) * torch.finfo(torch.bfloat16).eps / 2
    assert y.dtype == torch.bfloat16
    assert ((y - exact).abs() <= bound).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_a_row_has_the_same_bits_in_every_batch_and_on_any_threads(shape):
    weight, bias, x = _matrices(*shape, max(BATCHES))
    linear = Bf16Fallback(weight, bias)
    whole = linear(x)
    for size in BATCHES:
        assert torch.equal(linear(x[:size]), whole[:size]), f"first {size} rows"
        assert torch.equal(linear(x[-size:]), whole[-size:]), f"last {size} rows"
    for num_threads, y in enumerate(on_threads(lambda: linear(x), 1, 2, 3), 1):
        assert torch.equal(y, whole), f"{num_threads} threads"


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_row_that_is_no_number_spoils_no_other(bad):
    weight, bias, x = _matrices(TILE_OUTPUTS + 1, 40, TILE_ROWS + 3)
    linear = Bf16Fallback(weight, bias)
    good = linear(x)
    for row in (0, TILE_ROWS - 1, TILE_ROWS + 2):
        spoilt = x.clone()
        spoilt[row, 3] = bad
        y = linear(spoilt)
        others = [i for i in range(len(x)) if i != row]
        assert torch.equal(y[others], good[others])
        assert not y[row].isfinite().any()


def test_nothing_is_read_beside_rows_and_weights():
    for N, K, T in [(50, 33, 20), (16, 16, 3), (1, 5, 9), (64, 512, 512)]:
        weight, bias, x = _matrices(N, K, T)
        expected = Bf16Fallback(weight, bias)(x)
        beside = []
        for tensor in (weight, bias, x):
            whole = torch.full((tensor.numel() + 65,), float("nan"), dtype=tensor.dtype)
            beside.append(whole[33 : 33 + tensor.numel()].view(tensor.shape))
            beside[-1].copy_(tensor)
        assert torch.equal(Bf16Fallback(beside[0], beside[1])(beside[2]), expected)


def test_rows_and_weights_may_lie_anywhere():
    weight, bias, x = _matrices(50, 64, 20)
    expected = Bf16Fallback(weight, bias)(x)
    turned = Bf16Fallback(weight.T.contiguous().T, torch.stack((bias, bias), 1)[:, 0])
    assert torch.equal(turned(x.T.contiguous().T), expected)


def test_the_weight_is_not_kept_and_not_changed():
    weight, _, x = _matrices(48, 32, 5)
    before = weight.clone()
    linear = Bf16Fallback(weight, None)
    expected = linear(x)
    assert torch.equal(weight, before)
    weight.zero_()
    assert torch.equal(linear(x), expected)


@pytest.mark.rest
def test_it_is_chosen_where_there_are_no_instructions_for_bfloat16():
    chosen = pack(torch.ones((4, 4), dtype=torch.bfloat16), None)
    assert isinstance(chosen, Prepacked if cpu_features.MULTIPLIES_BFLOAT16 else Bf16Fallback)
    if platform.machine() not in ("x86_64", "AMD64"):
        return  # no levels
    code = (
        "import torch; from thothy_kernels.linear.cpu_impl import pack; "
        "print(type(pack(torch.ones((4, 4), dtype=torch.bfloat16), None)).__name__)"
    )
    for left_out in ({"THOTHY_CPU_ISA": "base"}, {"ONEDNN_MAX_CPU_ISA": "AVX2"}):
        assert _said_by([sys.executable, "-c", code], left_out) == "Bf16Fallback"


@pytest.mark.rest
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="not an x86 processor")
def test_the_small_tile_of_processors_without_wide_registers():
    """Runs in a process of its own, because the tile size is chosen at import."""
    said = _said_by([sys.executable, __file__], {"NUMBA_CPU_NAME": "haswell"})
    assert said == "4 rows, worst 0.0"


def _said_by(command, changes):
    paths = [str(Path(__file__).resolve().parents[2] / "oracles"), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **changes}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert run.returncode == 0, run.stderr[-2000:]
    return run.stdout.strip()


def _worst_difference():
    """Largest difference from float32 products of whole numbers, whose sums are all exact."""
    worst = 0.0
    for N, K in SHAPES:
        weight = torch.randint(-3, 4, (N, K)).bfloat16()
        x = torch.randint(0, 2, (37, K)).bfloat16()
        exact = (x.float() @ weight.float().T).bfloat16()
        worst = max(worst, float((Bf16Fallback(weight, None)(x) - exact).abs().max()))
    return worst


if __name__ == "__main__":
    print(f"{TILE_ROWS} rows, worst {_worst_difference()}")
