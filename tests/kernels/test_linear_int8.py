"""int8 linear: the bits of the reference, for a row in any batch."""

import os
import subprocess
import sys

import pytest
import torch
from thread_counts import on_threads

from thothy_kernels.linear_int8 import MOST_FEATURES, pack_linear_int8
from thothy_kernels.linear_int8.reference import quantize_rows
from thothy_kernels.linear_int8.rows import quantize_rows as quantize_rows_compiled

IMPLS = ("reference", "cpu")
DTYPES = (torch.float32, torch.bfloat16)
# (out, in): odd, narrow, wide, and the shapes of small models.
SHAPES = [(1, 1), (7, 5), (33, 17), (64, 172), (127, 63), (512, 64), (333, 2051), (9000, 40)]
BATCHES = (1, 2, 3, 4, 5, 7, 8, 9, 16, 33, 64, 100)


def _matrices(N, K, rows, dtype=torch.float32):
    generator = torch.Generator().manual_seed(N * 1000 + K)
    return (
        torch.randn(N, K, generator=generator).to(dtype),
        torch.randn(N, generator=generator).to(dtype),
        torch.randn(rows, K, generator=generator).to(dtype),
    )


def _same(a, b):
    """Bit for bit, NaN equal to NaN."""
    return torch.equal(a.nan_to_num(nan=12345.0), b.nan_to_num(nan=12345.0))


@pytest.mark.few(16)
@pytest.mark.parametrize("out_dtype", DTYPES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("has_bias", [False, True])
def test_the_cpu_computes_the_bits_of_the_reference(shape, dtype, out_dtype, has_bias):
    weight, bias, x = _matrices(*shape, 19, dtype)
    bias = bias if has_bias else None
    exact, fast = (pack_linear_int8(weight, bias, impl=i, out_dtype=out_dtype) for i in IMPLS)
    assert fast(x).dtype == out_dtype
    for rows in (x, x[:1], x[:8]):
        assert torch.equal(fast(rows), exact(rows))


def test_more_rows_than_are_multiplied_at_once_change_no_bit():
    weight, bias, x = _matrices(24, 40, 1100, torch.bfloat16)
    exact, fast = (pack_linear_int8(weight, bias, impl=impl) for impl in IMPLS)
    assert torch.equal(fast(x), exact(x))


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_products_are_within_the_steps_of_the_two_scales(shape, dtype, impl):
    """An entry is off by half a step at most; of the product, half a step of one factor times the
    other, and of both. An entry's quotient has two roundings (of up to 127 steps), which may make
    the half step more; the sum, the scales (twice each) and the bias have six; then the result."""
    weight, bias, x = _matrices(*shape, 19, dtype)
    y = pack_linear_int8(weight, bias, impl=impl)(x)
    exact = x.double() @ weight.double().T + bias.double()
    x_step, w_step = (m.double().abs().amax(1) / 127 for m in (x, weight))
    x_sizes, w_sizes = (m.double().abs().sum(1) for m in (x, weight))
    bound = x_step[:, None] * w_sizes / 2 + x_sizes[:, None] * w_step / 2
    bound += shape[1] * x_step[:, None] * w_step / 4
    unit = torch.finfo(torch.float32).eps / 2
    bound *= (1 + 2 * 127 * 2 * unit) ** 2
    bound += 6 * unit * (exact.abs() + 2 * bias.double().abs() + bound)
    bound += (exact.abs() + bound) * torch.finfo(dtype).eps / 2
    assert ((y - exact).abs() <= bound).all()


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(64, 172), (333, 2051)])
def test_row_alone_equals_row_in_batch(shape, dtype, impl):
    """In bfloat16, too: sums of whole numbers have no order. One row is a thousand times larger."""
    weight, bias, x = _matrices(*shape, max(BATCHES), dtype)
    x[-1] *= 1000
    linear = pack_linear_int8(weight, bias, impl=impl)
    whole = linear(x)
    for size in BATCHES:
        assert torch.equal(linear(x[:size]), whole[:size]), f"first {size} rows"
        assert torch.equal(linear(x[-size:]), whole[-size:]), f"last {size} rows"


@pytest.mark.parametrize("shape", [(512, 64), (20_000, 40)])
def test_number_of_threads_changes_no_bit(shape):
    weight, bias, x = _matrices(*shape, 100, torch.bfloat16)
    linear = pack_linear_int8(weight, bias, impl="cpu")
    for size in (1, 9, 100):
        one, two = on_threads(lambda size=size: linear(x[:size]), 1, 2)
        assert torch.equal(one, two)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("K", [1, 15, 16, 100])
def test_rows_become_bytes_as_the_reference_says(dtype, K):
    x = torch.randn(40, K, generator=torch.Generator().manual_seed(K)).to(dtype)
    x[1] = 0
    x[2] *= 1e-35
    x[3] *= 1e35
    x[4, K // 2] = 1e20  # beside it all else rounds to nothing
    x[5, K // 2] = float("nan")
    x[6, -1] = float("-inf")
    x[7] = torch.arange(K) - K / 2  # many ties
    x[8] *= 2.0**-140
    exact, exact_scale = quantize_rows(x)
    q, scale = quantize_rows_compiled(x, 128)
    assert torch.equal((q.int() - 128).to(torch.int8), exact)
    assert _same(scale, exact_scale)
    assert exact.int().abs().amax() <= 127


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_without_a_number_are_nan_and_touch_no_other(impl, dtype):
    weight, bias, x = _matrices(33, 40, 6, dtype)
    linear = pack_linear_int8(weight, bias, impl=impl)
    clean = linear(x)
    x[1, 3], x[4, 39] = float("nan"), float("inf")
    y = linear(x)
    assert y[[1, 4]].isnan().all()
    assert torch.equal(y[[0, 2, 3, 5]], clean[[0, 2, 3, 5]])


@pytest.mark.parametrize("impl", IMPLS)
def test_rows_of_nothing_give_the_bias_and_weights_of_nothing_too(impl):
    weight, bias, x = _matrices(33, 40, 3)
    x[1], x[2], weight[5] = 0, 1e-38, 0
    y = pack_linear_int8(weight, bias, impl=impl)(x)
    assert torch.equal(y[1], bias)
    assert torch.equal(y[2], bias)
    assert torch.equal(y[:, 5], bias[5].expand(3))


@pytest.mark.parametrize("impl", IMPLS)
def test_an_outlier_costs_its_own_row_alone_its_precision(impl):
    weight, _, x = _matrices(33, 128, 4)
    x[2, 7] = 1e4
    y = pack_linear_int8(weight, None, impl=impl)(x)
    errors = (y - x.double() @ weight.double().T).norm(dim=1)
    steps = [matrix.double().abs().amax(1, keepdim=True) / 127 for matrix in (x, weight)]
    # Entries err evenly within a step, or by themselves where they become 0; the largest of a row
    # does not. 33 sums have each their own weights' errors: twice their deviation, four times the
    # mean square, is beyond them by chance with exp(-33 / 2 * (3 - ln 4)) = 3e-12.
    squares = [
        torch.where(matrix.abs() < step / 2, matrix.double().square(), step.square() / 12)
        for matrix, step in zip((x, weight), steps, strict=True)
    ]
    squares[0][2, 7] = 0
    expected = squares[0] @ weight.double().square().T + x.double().square() @ squares[1].T
    assert (errors < 2 * expected.sum(1).sqrt()).all()


@pytest.mark.parametrize("impl", IMPLS)
def test_sums_beyond_float32_are_rounded_once(impl):
    """65,000 products of 127 * 127 and one of 1: past 2^24, and close to what int32 holds."""
    K = 65_000
    x, weight = torch.full((1, K), 127.0), torch.full((2, K), 127.0)
    x[0, 0] = 1.0
    y = pack_linear_int8(weight, None, impl=impl)(x)
    whole = torch.tensor(float(127 * 127 * (K - 1) + 127))
    assert torch.equal(y, whole.expand(1, 2))


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_no_rows_give_no_rows_and_rows_may_lie_apart(impl, dtype):
    weight, bias, x = _matrices(12, 8, 6, dtype)
    linear = pack_linear_int8(weight, bias, impl=impl, out_dtype=torch.float32)
    assert linear(x[:0]).shape == (0, 12)
    assert linear(x[:0]).dtype == torch.float32
    assert (linear.in_features, linear.out_features, linear.impl) == (8, 12, impl)
    assert torch.equal(linear(x[::2]), linear(x[::2].contiguous()))
    wide = torch.cat((weight, weight), dim=1)
    apart = pack_linear_int8(wide[:, :8], bias, impl=impl, out_dtype=torch.float32)
    assert torch.equal(apart(x), linear(x))


def test_bad_arguments_are_refused_by_name():
    weight, bias, x = _matrices(12, 8, 3)
    with pytest.raises(ValueError, match="no implementation 'triton'; there are reference, cpu"):
        pack_linear_int8(weight, None, impl="triton")
    with pytest.raises(ValueError, match="weight is torch.float16"):
        pack_linear_int8(weight.half(), None, impl="cpu")
    with pytest.raises(ValueError, match="at most"):
        pack_linear_int8(torch.zeros(1, MOST_FEATURES + 1), None, impl="cpu")
    with pytest.raises(ValueError, match="bias is torch.float32"):
        pack_linear_int8(weight, bias[:3], impl="cpu")
    with pytest.raises(ValueError, match="out_dtype torch.int8"):
        pack_linear_int8(weight, bias, impl="cpu", out_dtype=torch.int8)
    linear = pack_linear_int8(weight, bias, impl="cpu")
    for wrong in (x[:, :4], x.bfloat16(), x[0]):
        with pytest.raises(ValueError, match="x is"):
            linear(wrong)


_ELSEWHERE = """
import torch
from thothy_kernels.linear_int8 import pack_linear_int8
torch.manual_seed(0)
for N, K, T in ((64, 172, 5), (127, 63, 3), (256, 1024, 16), (1024, 256, 1)):
    weight, bias, x = torch.randn(N, K), torch.randn(N), torch.randn(T, K)
    exact, fast = (pack_linear_int8(weight, bias, impl=i)(x) for i in ("reference", "cpu"))
    assert torch.equal(exact, fast), (N, K, T)
"""


@pytest.mark.rest
@pytest.mark.parametrize("isa", ["AVX512_CORE_VNNI", "AVX512_CORE", "AVX2_VNNI", "AVX2"])
def test_older_processors_compute_the_same_bits(isa):
    """As far as this one can be told to be one of them: it is asked to leave newer instructions
    out. Those without VNNI cut sums off where they are not fed half the range of bytes."""
    env = {**os.environ, "ONEDNN_MAX_CPU_ISA": isa, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", _ELSEWHERE], env=env, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
