"""Steps get smaller when memory was short, and larger again later."""

from thothy_batch.engine.process.oom_backoff import OomBackoff


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_each_death_from_memory_halves_and_time_doubles_again() -> None:
    clock = Clock()
    backoff = OomBackoff(1000, clock)
    assert not backoff.recover()
    assert backoff.halve(1)
    assert backoff.halve(1)
    assert backoff.max_step_tokens == 250
    clock.now = 599.0
    assert not backoff.recover(), "twice as long after the second"
    clock.now = 600.0
    assert backoff.recover()
    assert backoff.max_step_tokens == 500
    assert not backoff.recover(), "not all at once"
    clock.now = 1200.0
    assert backoff.recover()
    assert backoff.max_step_tokens == 1000
    assert not backoff.is_reduced
    clock.now = 9e9
    assert not backoff.recover()
    assert backoff.max_step_tokens == 1000


def test_never_below_what_a_request_needs() -> None:
    assert not OomBackoff(127).halve(1)
    backoff = OomBackoff(512)
    assert not backoff.halve(300), "its samples are drawn in one step"
    assert backoff.max_step_tokens == 512
    assert backoff.halve(256)


def test_odd_sizes_recover_to_what_they_were() -> None:
    clock = Clock()
    backoff = OomBackoff(777, clock)
    assert backoff.halve(1)
    clock.now = 1e6
    assert backoff.recover()
    assert backoff.max_step_tokens == 776
    clock.now = 2e6
    assert backoff.recover()
    assert backoff.max_step_tokens == 777


def test_steps_grow_no_further_than_the_engine_allows() -> None:
    clock = Clock()
    backoff = OomBackoff(1000, clock)
    assert backoff.halve(1)
    backoff.restarted(500)
    assert not backoff.is_reduced
    clock.now = 1e6
    assert not backoff.recover()
