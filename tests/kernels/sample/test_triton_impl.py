"""Sampling in Triton: the reference's tokens for any row, split and batch."""

import pytest
import torch
import triton
import triton.language as tl

from thothy_kernels.sample import SamplingTensors, penalize_repetition, sample
from thothy_kernels.sample.reference import gumbel, philox_4x32_10
from thothy_kernels.sample.triton_impl import launch
from thothy_kernels.sample.triton_impl.philox import gumbel_of, rough_gumbel_of, words_of
from thothy_kernels.sample.triton_impl.radix_threshold import find_threshold, key_of, value_of

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
INF = float("inf")


@pytest.fixture
def small_pieces(monkeypatch):
    """Shrink the pieces, so that a row of a few hundred logits has several of each."""
    for name, value in {"_CHUNK": 256, "_BLOCK": 2, "_TILE": 128, "_BITS": 4}.items():
        monkeypatch.setattr(launch, name, value)


def _params(num_rows, temperature=1.0, top_k=0, top_p=1.0, seed=0):
    rows = torch.arange(num_rows)
    return SamplingTensors(
        torch.full((num_rows,), temperature),
        torch.full((num_rows,), top_k, dtype=torch.int32),
        torch.full((num_rows,), top_p),
        rows + seed,
        rows * 3,
    )


def _mixed(num_rows, generator):
    """All sampling modes in one batch, with filters from the narrowest to the widest."""
    on = torch.rand(3, num_rows, generator=generator) > 0.4
    spread = torch.rand(num_rows, generator=generator)
    return SamplingTensors(
        torch.where(on[0], 0.05 + 2.0 * spread, 0.0),
        (torch.randint(1, 300, (num_rows,), generator=generator) * on[1]).int(),
        torch.where(on[2], torch.rand(num_rows, generator=generator) ** 0.5, 1.0),
        torch.randint(-(2**63), 2**63 - 1, (num_rows,), generator=generator),
        torch.randint(0, 2**40, (num_rows,), generator=generator),
    )


def _tokens(logits, params):
    fields = ("temperature", "top_k", "top_p", "seeds", "positions")
    moved = SamplingTensors(*(getattr(params, name).to(DEVICE) for name in fields))
    return sample(logits.to(DEVICE), moved, impl="triton").cpu()


def _assert_same_tokens(logits, params):
    expected = sample(logits, params, impl="reference")
    assert torch.equal(sample(logits, params, impl="cpu"), expected)
    assert torch.equal(_tokens(logits, params), expected)


@triton.jit
def _noise_kernel(seed, position, words, noise, rough, first_quad, N: tl.constexpr):
    quads = first_quad + tl.arange(0, N)
    tokens = tl.arange(0, 4 * N)
    found = words_of(tl.load(seed), tl.load(position), quads)
    tl.store(words + tokens, found)
    tl.store(noise + tokens, gumbel_of(found))
    tl.store(rough + tokens, rough_gumbel_of(found))


@pytest.mark.parametrize("seed", [0, 1, -1, 0x1234_5678_9ABC_DEF0, -(2**63)])
@pytest.mark.parametrize("position", [0, 5, 2**31 + 7, 2**45 + 3])
def test_words_are_the_references_bit_for_bit_and_the_noise_follows(seed, position):
    first, N = 60_000, 256
    words = torch.empty(4 * N, dtype=torch.uint32, device=DEVICE)
    noise = torch.empty(4 * N, dtype=torch.float64, device=DEVICE)
    rough = torch.empty(4 * N, device=DEVICE)
    row = (torch.tensor([value], device=DEVICE) for value in (seed, position))
    _noise_kernel[(1,)](*row, words, noise, rough, first, N=N)
    ids = 4 * first + torch.arange(4 * N)
    low = 0xFFFFFFFF
    counter = [ids // 4, ids * 0, ids * 0 + (position & low), ids * 0 + (position >> 32 & low)]
    expected = torch.stack(philox_4x32_10(counter, (seed & low, seed >> 32 & low)))
    assert torch.equal(words.cpu().long(), expected.gather(0, ids[None] % 4)[0])
    exact = gumbel(seed, position, ids)
    # Either inner logarithm errs by a place, which the outer one adds as it is, and by another.
    place = torch.finfo(torch.float64).eps
    assert ((noise.cpu() - exact).abs() <= 2 * place * (1 + exact.abs())).all()
    assert (rough.cpu() - exact).abs().max() < 1.2e-5


@triton.jit
def _rough_kernel(words, rough, N: tl.constexpr):
    at = tl.arange(0, N)
    tl.store(rough + at, rough_gumbel_of(tl.load(words + at)))


def test_rough_noise_keeps_its_bound_at_both_ends_and_where_its_formula_changes():
    spread = torch.arange(0, 2**32, 2**32 // 1024)
    edge = int(0.9375 * 2**32)
    ends = [torch.arange(256) + start for start in (0, 2**32 - 256, 2**31 - 128, edge - 128)]
    words = torch.cat([spread, *ends])
    rough = torch.empty(len(words), device=DEVICE)
    _rough_kernel[(1,)](words.to(torch.uint32).to(DEVICE), rough, N=len(words))
    exact = -torch.log(-torch.log((words.double() + 0.5) * 2.0**-32))
    assert (rough.cpu() - exact).abs().max() < 1.2e-5


@triton.jit
def _key_kernel(values, keys, back, N: tl.constexpr):
    at = tl.arange(0, N)
    key = key_of(tl.load(values + at))
    tl.store(keys + at, key)
    tl.store(back + at, value_of(key))


def test_keys_are_in_the_order_of_the_floats():
    values = torch.tensor([-INF, -3e38, -1.5, -1e-40, -0.0, 0.0, 1e-40, 1.0, 1.0000001, INF, 7, 8])
    values = torch.cat([values, torch.randn(4, generator=_seeded(0))])
    keys = torch.empty(16, dtype=torch.uint32, device=DEVICE)
    back = torch.empty(16, device=DEVICE)
    _key_kernel[(1,)](values.to(DEVICE), keys, back, N=16)
    keys = keys.cpu().long()
    assert torch.equal(keys[:, None] < keys, values[:, None] < values)
    assert torch.equal(back.cpu(), values)


@triton.jit
def _threshold_kernel(values, wanted, found, V, COUNTS: tl.constexpr, BITS: tl.constexpr):
    lowest, highest = tl.full((), float("-inf"), tl.float32), tl.full((), 9.0, tl.float32)
    threshold, above = find_threshold(
        values, values, 0, V, lowest, highest, tl.load(wanted), highest, 0.5,
        COUNTS, False, 64, 64, BITS,
    )  # fmt: skip
    tl.store(found, threshold.to(tl.float64))
    tl.store(found + 1, above)


@pytest.mark.rest
@pytest.mark.parametrize("counts", [True, False])
def test_a_threshold_is_the_highest_value_from_which_on_the_weight_is_reached(counts):
    values = (torch.randn(200, generator=_seeded(1)) * 12).round().clamp(max=36) / 4
    values[77] = -INF
    weights = torch.ones(200).double() if counts else ((values.double() - 9.0) * 0.5).exp()
    for share in (1e-9, 0.3, 0.9, 0.999, 1.1):
        wanted = share * weights.sum()
        found = torch.empty(2, dtype=torch.float64, device=DEVICE)
        args = (values.to(DEVICE), wanted[None].to(DEVICE), found, 200)
        _threshold_kernel[(1,)](*args, COUNTS=counts, BITS=3)
        reached = [v for v in values.unique() if weights[values >= v].sum() >= wanted]
        threshold = max(reached, default=torch.tensor(-INF))
        assert found[0] == threshold
        # Powers of exact numbers err by a place each, sums of V by half a place a term, both twice.
        rtol = (len(values) + 2) * torch.finfo(torch.float64).eps
        above = weights[values > threshold].sum()
        torch.testing.assert_close(found[1].cpu(), above, rtol=rtol, atol=0)


@pytest.mark.few(1)
@pytest.mark.parametrize("V", [1, 3, 127, 128, 129, 500, 1023])
def test_mixed_batches_draw_the_references_tokens(V, small_pieces):
    generator = _seeded(V)
    logits = torch.randn(24, V, generator=generator) * 5
    logits[:8] = (logits[:8] / 4).round()  # equals at the edges of top-k and top-p
    logits[8:12] = torch.where(torch.rand(4, V, generator=generator) < 0.5, -INF, logits[8:12])
    logits[8:12, V // 2] = 1.0
    _assert_same_tokens(logits, _mixed(24, generator))


@pytest.mark.rest
def test_a_vocabulary_in_several_chunks_draws_the_references_tokens():
    generator = _seeded(11)
    logits = torch.randn(16, 13_001, generator=generator) * 3
    logits[:4] = (logits[:4] * 8).bfloat16().float() / 8
    _assert_same_tokens(logits, _mixed(16, generator))


@pytest.mark.rest
@pytest.mark.parametrize("temperature", [1e-30, 1e-4, 0.05, 1.0, 30.0])
def test_screening_of_equal_logits_never_loses_the_winner(temperature):
    logits = torch.randn(12, 4200, generator=_seeded(5)) * 20 + 50
    logits = logits.bfloat16().float()
    _assert_same_tokens(logits, _params(12, temperature, seed=77))


@pytest.mark.rest
def test_draws_of_temperature_alone_are_the_references():
    logits = torch.randn(300, 400, generator=_seeded(6)) * 2
    _assert_same_tokens(logits, _params(300, 0.8, seed=1 << 50))


@pytest.mark.rest
def test_the_split_of_a_row_changes_nothing(monkeypatch):
    generator = _seeded(7)
    logits = torch.randn(8, 900, generator=generator) * 4
    params = _mixed(8, generator)
    whole = _tokens(logits, params)
    for chunk, tile, block in ((128, 128, 1), (512, 1024, 4), (2048, 256, 16)):
        monkeypatch.setattr(launch, "_CHUNK", chunk)
        monkeypatch.setattr(launch, "_TILE", tile)
        monkeypatch.setattr(launch, "_BLOCK", block)
        assert torch.equal(_tokens(logits, params), whole), (chunk, tile, block)


@pytest.mark.rest
def test_row_alone_equals_row_in_batch(small_pieces):
    generator = _seeded(8)
    logits = torch.randn(8, 501, generator=generator) * 3
    params = _mixed(8, generator)
    together = _tokens(logits, params)
    for row in range(8):
        fields = ("temperature", "top_k", "top_p", "seeds", "positions")
        own = SamplingTensors(*(getattr(params, name)[row : row + 1] for name in fields))
        assert _tokens(logits[row : row + 1], own) == together[row]


@pytest.mark.rest
@pytest.mark.parametrize(
    ("top_k", "top_p"),
    [
        *((700, 1.0), (701, 0.3), (699, 1.0), (1, 0.5), (5, 1e-30)),
        *((0, 1e-30), (0, 0.0), (40, 0.999999)),
    ],
)
def test_filters_at_their_limits(top_k, top_p, small_pieces):
    logits = torch.randn(6, 700, generator=_seeded(9))
    logits[3:] = logits[3:].round()
    _assert_same_tokens(logits, _params(6, 1.5, top_k, top_p))


@pytest.mark.rest
def test_of_equal_logits_top_p_keeps_exactly_the_lower_ids(small_pieces):
    logits = torch.zeros(16, 600)
    params = _params(16, 1.0, 0, 0.5)
    _assert_same_tokens(logits, params)
    assert _tokens(logits, params).max() < 300


@pytest.mark.rest
def test_minus_zero_equals_zero(small_pieces):
    logits = torch.full((10, 300), -9.0)
    logits[:, 5:200:3] = -0.0
    logits[:, 6:200:3] = 0.0
    for top_k, top_p in ((3, 1.0), (0, 0.5), (70, 0.3)):
        _assert_same_tokens(logits, _params(10, 0.5, top_k, top_p))


@pytest.mark.few(1)
@pytest.mark.parametrize("bad", [float("nan"), INF, -INF])
@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"), [(0.0, 0, 1.0), (1.0, 0, 1.0), (1.0, 5, 1.0), (1.0, 0, 0.9)]
)
def test_a_broken_row_gives_minus_one_and_its_neighbours_their_tokens(
    bad, temperature, top_k, top_p, small_pieces
):
    logits = torch.randn(3, 700, generator=_seeded(10))
    params = _params(3, temperature, top_k, top_p)
    expected = sample(logits, params, impl="reference")
    expected[1] = -1
    logits[1, 600] = bad
    if bad == -INF:
        logits[1] = -INF
    assert torch.equal(_tokens(logits, params), expected)


@pytest.mark.rest
def test_nothing_beside_the_rows_is_read(small_pieces):
    generator = _seeded(12)
    wide = torch.full((9, 400), float("nan"))
    wide[:, 30:391] = torch.randn(9, 361, generator=generator) * 3
    params = _mixed(9, generator)
    expected = sample(wide[:, 30:391].contiguous(), params, impl="reference")
    assert torch.equal(_tokens(wide[:, 30:391], params), expected)
    assert torch.equal(_tokens(wide[:, 30:391].t().contiguous().t(), params), expected)


def test_an_empty_batch_is_empty():
    assert _tokens(torch.zeros(0, 30), _params(0)).shape == (0,)


def _penalized(logits, rows, tokens, penalty):
    logits = logits.to(DEVICE)
    args = (t.to(DEVICE) for t in (rows, tokens, penalty))
    penalize_repetition(logits, *args, impl="triton")
    return logits.cpu()


def test_penalties_are_the_references_bits_however_often_a_pair_is_named():
    generator = _seeded(13)
    logits = torch.randn(7, 90, generator=generator) * 10
    logits[2] = -INF
    rows, tokens = (torch.randint(0, n, (2000,), generator=generator) for n in (7, 90))
    penalty = torch.tensor([1.0, 1.1, 1.3, 0.7, 2.0, 1.05, 1.7])[rows]
    expected = logits.clone()
    penalize_repetition(expected, rows, tokens, penalty, impl="reference")
    assert torch.equal(_penalized(logits.clone(), rows, tokens, penalty), expected)
    assert torch.equal(_penalized(logits.t().contiguous().t(), rows, tokens, penalty), expected)


def test_penalties_outside_the_logits_are_skipped():
    wide = torch.arange(32.0).reshape(4, 8)
    rows = torch.tensor([-1, 2, 1, 1, 0, 2**40])
    tokens = torch.tensor([0, 0, 5, -1, 2, 0])
    expected = wide.clone()
    expected[0, 2] = 1.0
    view = wide.to(DEVICE)
    args = (t.to(DEVICE) for t in (rows, tokens, torch.full((6,), 2.0)))
    penalize_repetition(view[:2, :5], *args, impl="triton")
    assert torch.equal(view.cpu(), expected)


def _seeded(seed):
    return torch.Generator().manual_seed(seed)
