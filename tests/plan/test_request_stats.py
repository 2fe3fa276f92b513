"""Figures of a night."""

from hypothesis import given, settings
from hypothesis import strategies as st

from thothy_batch.plan import LengthStats, request_stats
from thothy_batch.records import Request, Sampling


def request(prompt_len: int, max_tokens: int, num_samples: int = 1) -> Request:
    return Request(0, "", [1] * prompt_len, Sampling(max_tokens=max_tokens), 0, num_samples)


@settings(deadline=None)
@given(st.lists(st.integers(0, 5000), min_size=1))
def test_length_stats_add_up(lengths: list[int]) -> None:
    stats = LengthStats.of(lengths)
    assert (stats.num, stats.total, stats.max) == (len(lengths), sum(lengths), max(lengths))
    assert stats.p50 <= stats.p95 <= stats.p99 <= stats.max
    assert {stats.p50, stats.p95, stats.p99} <= set(lengths)
    assert sum(count for _, count in stats.histogram) == len(lengths)
    low = -1
    for bound, count in stats.histogram:
        assert sum(low < max(length, 1) <= bound for length in lengths) == count
        low = bound


def test_no_lengths_are_no_error() -> None:
    assert LengthStats.of([]).max == 0


def test_night_counts_prompts_once_and_outputs_per_sample() -> None:
    stats = request_stats([request(100, 10, num_samples=3), request(40, 50)])
    assert (stats.num_requests, stats.num_sequences) == (2, 4)
    assert stats.prompt.total == 140
    assert stats.output.total == 80
    assert stats.needed_tokens == 220
    assert stats.longest_tokens == 110
    assert stats.sharing.prompt_tokens == 140
    # The second prompt's full block is the beginning of the first.
    assert stats.sharing.unique_tokens == 108
    assert stats.as_json()["prompt"]["histogram"] == [[64, 1], [128, 1]]  # type: ignore[index]


def test_an_empty_night_has_figures_too() -> None:
    stats = request_stats([])
    assert (stats.num_requests, stats.needed_tokens, stats.longest_tokens) == (0, 0, 0)
