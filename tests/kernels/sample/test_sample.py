"""Sampling: exact draws from the softmax, exact filters, batch-invariant draws."""

import itertools

import pytest
import torch

from thothy_kernels.sample import SamplingTensors, penalize_repetition, sample
from thothy_kernels.sample.reference import gumbel, philox_4x32_10

IMPLS = ("reference", "cpu", "triton")
# What raises for bad values, and draws thousands of tokens in a second: Triton is interpreted here.
# Its tokens are the reference's: test_triton_impl.py.
HOST_IMPLS = ("reference", "cpu")


def _params(num_rows, temperature=1.0, top_k=0, top_p=1.0, seeds=None, positions=None):
    return SamplingTensors(
        torch.full((num_rows,), temperature),
        torch.full((num_rows,), top_k, dtype=torch.int32),
        torch.full((num_rows,), top_p),
        torch.arange(num_rows) if seeds is None else torch.as_tensor(seeds),
        torch.zeros(num_rows, dtype=torch.int64) if positions is None else positions,
    )


def _drawn(row, num_draws, impl, **kwargs):
    return sample(row.expand(num_draws, -1).contiguous(), _params(num_draws, **kwargs), impl=impl)


# Known answers published with the Random123 library (kat_vectors: philox4x32, 10 rounds).
PHILOX = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    (
        (0xFFFFFFFF,) * 4,
        (0xFFFFFFFF,) * 2,
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), PHILOX)
def test_philox_gives_the_published_words(counter, key, expected):
    words = philox_4x32_10([torch.tensor([word]) for word in counter], key)
    assert tuple(int(word) for word in words) == expected


@pytest.mark.parametrize(("counter", "key", "expected"), PHILOX)
def test_compiled_philox_gives_the_published_words(counter, key, expected):
    import numba
    import numpy as np

    from thothy_kernels.sample.cpu_impl.philox import philox

    @numba.njit
    def words(c0, c1, c2, c3, k0, k1):  # a helper has code inside a caller alone
        return philox(c0, c1, c2, c3, k0, k1)

    assert words(*(np.uint32(word) for word in (*counter, *key))) == expected


@pytest.mark.rest
@pytest.mark.parametrize("impl", HOST_IMPLS)
def test_draws_follow_softmax(impl):
    """Chi-square of 4,000 draws over 12 tokens: 11 degrees of freedom, 99.9 % lie below 31.3."""
    row = torch.linspace(-1.5, 1.5, 12)[torch.randperm(12, generator=_seeded(3))]
    draws = _drawn(row, 4000, impl, temperature=0.7)
    expected = (row.double() / 0.7).softmax(0) * 4000
    counts = torch.bincount(draws, minlength=12)
    assert ((counts - expected).square() / expected).sum() < 31.3


def test_positions_of_one_seed_draw_independently():
    row = torch.zeros(8)
    draws = _drawn(row, 4000, "cpu", seeds=[7] * 4000, positions=torch.arange(4000))
    counts = torch.bincount(draws, minlength=8)
    assert ((counts - 500.0).square() / 500.0).sum() < 24.3  # 7 degrees of freedom, 99.9 %
    pairs = torch.bincount(draws[:-1] * 8 + draws[1:], minlength=64)
    mean = 3999 / 64
    assert ((pairs - mean).square() / mean).sum() < 106.0  # 63 degrees of freedom, 99.9 %


def test_gumbel_noise_uses_all_bits_of_seed_and_position():
    ids = torch.arange(8)
    noises = [
        gumbel(seed, position, ids)
        for seed, position in [(0, 0), (1, 0), (1 << 40, 0), (-1, 0), (0, 1), (0, 1 << 40)]
    ]
    for a, b in itertools.combinations(noises, 2):
        assert not (a == b).any()


def test_reference_and_cpu_draw_the_same_tokens():
    generator = _seeded(0)
    for num_rows, V in itertools.product((1, 60), (1, 5, 33, 260, 3000)):
        logits = torch.randn(num_rows, V, generator=generator) * 4
        if V == 260:
            logits = logits.round()  # equal logits: ties at the edges of top-k and top-p
        half = torch.rand(3, num_rows, generator=generator) > 0.5
        params = SamplingTensors(
            torch.rand(num_rows, generator=generator) * 1.5 * (half[0] | half[1]),
            torch.randint(0, 60, (num_rows,), generator=generator, dtype=torch.int32) * half[1],
            torch.where(half[2], 1.0, torch.rand(num_rows, generator=generator)),
            torch.randint(-(2**63), 2**63 - 1, (num_rows,), generator=generator),
            torch.randint(0, 5000, (num_rows,), generator=generator),
        )
        expected = sample(logits, params, impl="reference")
        assert torch.equal(sample(logits, params, impl="cpu"), expected), (num_rows, V)


@pytest.mark.rest
@pytest.mark.parametrize("temperature", [1e-4, 0.05, 1.0, 30.0])
def test_screening_never_loses_the_winner(temperature):
    logits = torch.randn(20, 4099, generator=_seeded(5)) * 20 + 50
    params = _params(20, temperature=temperature)
    expected = sample(logits, params, impl="reference")
    for impl in IMPLS[1:]:
        assert torch.equal(sample(logits, params, impl=impl), expected)


@pytest.mark.few(1)
@pytest.mark.parametrize("impl", IMPLS)
def test_row_alone_equals_row_in_batch(impl):
    logits = torch.randn(9, 501, generator=_seeded(1)) * 3
    kwargs = {"temperature": 0.9, "top_k": 40, "top_p": 0.95}
    together = sample(logits, _params(9, **kwargs), impl=impl)
    for row in range(9):
        alone = sample(logits[row : row + 1], _params(1, seeds=[row], **kwargs), impl=impl)
        assert alone == together[row]


@pytest.mark.parametrize("impl", IMPLS)
def test_temperature_zero_takes_the_lowest_id_among_the_highest(impl):
    logits = torch.randn(3, 1500, generator=_seeded(2))
    logits[0, [7, 1400]] = 9.0
    logits[1, 1499] = 9.0
    logits[2] = 0.0
    assert sample(logits, _params(3, temperature=0.0), impl=impl).tolist() == [7, 1499, 0]


@pytest.mark.few(1)
@pytest.mark.parametrize("impl", HOST_IMPLS)
def test_top_k_keeps_exactly_k_and_what_equals_the_last(impl):
    row = torch.tensor([0.0, 3.0, 1.0, 2.0, 2.0, -1.0])
    draws = {
        k: set(_drawn(row, 300, impl, temperature=2.0, top_k=k).tolist()) for k in (1, 2, 3, 4, 9)
    }
    assert draws[1] == {1}
    assert draws[2] == draws[3] == {1, 3, 4}
    assert draws[4] == {1, 2, 3, 4}
    assert draws[9] == {0, 1, 2, 3, 4, 5}


@pytest.mark.rest
@pytest.mark.parametrize("impl", HOST_IMPLS)
def test_top_p_keeps_the_shortest_head_that_reaches_p(impl):
    row = torch.tensor([0.1, 0.5, 0.15, 0.25]).log()
    cases = {0.0: {1}, 0.45: {1}, 0.55: {1, 3}, 0.8: {1, 2, 3}, 0.95: {0, 1, 2, 3}}
    for p, kept in cases.items():
        assert set(_drawn(row, 200, impl, top_p=p).tolist()) == kept, p
    # Of four equal tokens exactly two hold half, and the lower ids come first.
    assert set(_drawn(torch.zeros(4), 200, impl, top_p=0.5).tolist()) == {0, 1}


@pytest.mark.parametrize("impl", HOST_IMPLS)
def test_top_p_acts_on_what_top_k_left(impl):
    row = torch.tensor([0.4, 0.3, 0.2, 0.1]).log()
    # Of the first two, the first holds 4/7: more than 0.5, so it stays alone.
    assert set(_drawn(row, 200, impl, top_k=2, top_p=0.5).tolist()) == {0}
    assert set(_drawn(row, 200, impl, top_k=2, top_p=0.6).tolist()) == {0, 1}


@pytest.mark.parametrize("impl", HOST_IMPLS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_row_of_broken_logits_is_refused_by_number(impl, bad):
    logits = torch.zeros(3, 40)
    logits[1, 39] = bad
    for temperature in (0.0, 1.0):
        with pytest.raises(ValueError, match="row 1 of the logits"):
            sample(logits, _params(3, temperature=temperature), impl=impl)


@pytest.mark.rest
@pytest.mark.parametrize("impl", IMPLS)
def test_tokens_that_are_ruled_out_are_never_drawn(impl):
    row = torch.full((50,), -torch.inf)
    row[[4, 30]] = 0.0
    assert set(_drawn(row, 100, impl).tolist()) == {4, 30}


@pytest.mark.parametrize("impl", IMPLS)
def test_logits_are_left_as_they_were_and_an_empty_batch_is_empty(impl):
    logits = torch.randn(2, 30, generator=_seeded(4))
    before = logits.clone()
    sample(logits, _params(2, top_k=3), impl=impl)
    assert torch.equal(logits, before)
    assert sample(logits[:0], _params(0), impl=impl).shape == (0,)


@pytest.mark.parametrize("impl", IMPLS)
def test_repetition_penalty_acts_once_per_row_and_token(impl):
    logits = torch.tensor([[2.0, -2.0, 0.0, 1.0], [4.0, 4.0, -4.0, 1.0]])
    rows = torch.tensor([0, 0, 0, 1, 1, 1])
    tokens = torch.tensor([0, 1, 0, 2, 1, 2])
    penalty = torch.tensor([2.0, 2.0, 2.0, 4.0, 4.0, 4.0])
    penalize_repetition(logits, rows, tokens, penalty, impl=impl)
    assert logits.tolist() == [[1.0, -4.0, 0.0, 1.0], [4.0, 1.0, -16.0, 1.0]]


@pytest.mark.parametrize("impl", HOST_IMPLS)
def test_ids_outside_the_logits_are_refused(impl):
    one, inside = torch.ones(1), torch.zeros(1, dtype=torch.int64)
    for rows, tokens, message in ((inside + 2, inside, "row_ids"), (inside, inside - 1, "token")):
        with pytest.raises(ValueError, match=message):
            penalize_repetition(torch.zeros(2, 4), rows, tokens, one, impl=impl)


def test_bad_arguments_are_refused_by_name():
    logits = torch.zeros(2, 4)
    with pytest.raises(ValueError, match="no implementation 'flex'; there are reference, cpu"):
        sample(logits, _params(2), impl="flex")
    with pytest.raises(ValueError, match="logits is torch.bfloat16"):
        sample(logits.bfloat16(), _params(2), impl="cpu")
    with pytest.raises(ValueError, match="2 rows, like logits"):
        sample(logits, _params(3), impl="cpu")
    with pytest.raises(ValueError, match="seeds is torch.int32"):
        _params(2, seeds=torch.zeros(2, dtype=torch.int32))
    ids = torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match="token_ids is"):
        penalize_repetition(logits, ids, ids[:1], torch.ones(2), impl="cpu")


def _seeded(seed):
    return torch.Generator().manual_seed(seed)
