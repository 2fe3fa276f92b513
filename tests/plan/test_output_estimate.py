"""Estimates of output lengths: exact, from history, from what has finished, at most max_tokens."""

from hypothesis import given, settings
from hypothesis import strategies as st

from thothy_batch.plan import OutputEstimates
from thothy_batch.plan.output_estimate import MIN_OUTPUTS
from thothy_batch.records import Sampling

OPEN = Sampling(max_tokens=100)
EXACT = Sampling(max_tokens=100, ignore_eos=True)
LENGTHS = st.lists(st.integers(1, 300), min_size=MIN_OUTPUTS, max_size=200)


@settings(deadline=None)
@given(LENGTHS)
def test_an_exact_length_needs_no_history(history: list[int]) -> None:
    estimates = OutputEstimates({"j": history})
    assert estimates.expected("j", EXACT) == estimates.typical("j", EXACT) == 100
    assert estimates.source("j", EXACT) == "exact"


@settings(deadline=None)
@given(LENGTHS)
def test_nine_of_ten_outputs_are_no_longer_than_what_is_expected(history: list[int]) -> None:
    expected = OutputEstimates({"j": history}).expected("j", Sampling(max_tokens=1000))
    assert sum(length <= expected for length in history) >= 0.9 * len(history)
    assert expected in history


@settings(deadline=None)
@given(LENGTHS, st.integers(1, 400))
def test_nothing_is_expected_beyond_max_tokens(history: list[int], max_tokens: int) -> None:
    estimates, sampling = OutputEstimates({"j": history}), Sampling(max_tokens=max_tokens)
    assert 1 <= estimates.expected("j", sampling) <= max_tokens
    assert 1 <= estimates.typical("j", sampling) <= max_tokens


def test_a_few_outputs_say_nothing_yet() -> None:
    estimates = OutputEstimates({"j": [3] * (MIN_OUTPUTS - 1)})
    assert (estimates.expected("j", OPEN), estimates.source("j", OPEN)) == (100, "max_tokens")
    estimates.observe("j", 3)
    assert estimates.source("j", OPEN) == "history"


def test_what_finishes_moves_the_estimate_of_its_own_job_alone() -> None:
    estimates = OutputEstimates()
    for _ in range(2 * MIN_OUTPUTS):
        estimates.observe("short", 7)
    assert (estimates.expected("short", OPEN), estimates.typical("short", OPEN)) == (7, 7)
    assert estimates.expected("other", OPEN) == 100
    for _ in range(40 * MIN_OUTPUTS):
        estimates.observe("short", 60)
    assert (estimates.expected("short", OPEN), estimates.typical("short", OPEN)) == (60, 57)
