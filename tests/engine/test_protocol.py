"""Every engine keeps the protocol: each request is reported exactly once, whatever happens."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from thothy_batch.engine.start import start_child, start_in_process, start_supervised
from thothy_batch.records import EngineSpec, EngineUpdate, ModelSpec, SharedPrefix

STARTS = {"in process": start_in_process, "child": start_child, "supervised": start_supervised}


@pytest.fixture(params=STARTS)
def start(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """Start engines of the fake model; they are closed at the end."""
    started = []

    def make(knobs: str = "", **settings: Any) -> Any:
        spec = EngineSpec(model=ModelSpec(id=f"builtin:fake{knobs}"), **settings)
        started.append(STARTS[request.param](spec))
        return started[-1]

    yield make
    for engine in started:
        engine.close()


def poll_until(engine: Any, is_enough: Callable[[EngineUpdate], bool]) -> EngineUpdate:
    """Everything that was reported until then, as one; the state is the last one."""
    whole = EngineUpdate()
    end = time.monotonic() + 60
    while True:
        assert time.monotonic() < end
        update = engine.poll(0.1)
        for name in ("results", "failures", "expired", "given_back"):
            getattr(whole, name).extend(getattr(update, name))
        whole.num_running, whole.num_waiting = update.num_running, update.num_waiting
        whole.blocks_used = update.blocks_used
        if is_enough(whole):
            return whole


def is_idle(update: EngineUpdate) -> bool:
    return not update.num_running and not update.num_waiting


def reported(*updates: EngineUpdate) -> Counter[int]:
    return Counter(
        request_id
        for update in updates
        for request_id in (
            *(each.request_id for each in update.results),
            *(each.request_id for each in update.failures),
            *update.expired,
            *update.given_back,
        )
    )


def begun(engine: Any, request_of: Any, num: int = 10, **more: Any) -> EngineUpdate:
    """Submit requests to an engine that runs two at a time, and wait until some were started."""
    engine.submit(
        [request_of(i, b"prompt %d" % i, 100, ignore_eos=True, **more) for i in range(num)]
    )
    return poll_until(engine, lambda update: update.num_waiting < num)


@pytest.mark.few(1)
def test_stop_admitting_alone_finishes_what_runs_and_keeps_the_rest_waiting(
    start: Any, request_of: Any
) -> None:
    engine = start("?step_ms=5", max_seqs=2)
    first = begun(engine, request_of)
    engine.stop_admitting()
    engine.cancel([request_of(9, b"")])  # its end says that the engine knows of the stop
    rest = poll_until(engine, lambda update: 9 in update.given_back and not update.num_running)
    num_results = len(first.results) + len(rest.results)
    assert 2 <= num_results < 9
    assert (first.given_back, rest.given_back) == ([], [9])
    assert rest.num_waiting == 9 - num_results
    engine.give_back()
    last = poll_until(engine, is_idle)
    assert len(last.given_back) == 9 - num_results
    assert reported(first, rest, last) == Counter(range(10))


@pytest.mark.few(1)
def test_what_is_submitted_after_the_stop_is_given_back(start: Any, request_of: Any) -> None:
    engine = start()
    engine.stop_admitting()
    engine.submit([request_of(7, b"late", 5)])
    update = poll_until(engine, lambda update: bool(update.given_back))
    assert update.given_back == [7]
    assert is_idle(update)


@pytest.mark.few(1)
def test_give_back_returns_the_queue_and_later_requests_run(start: Any, request_of: Any) -> None:
    engine = start("?step_ms=5", max_seqs=2)
    first = begun(engine, request_of)
    engine.give_back()
    second = poll_until(engine, is_idle)
    given_back = {*first.given_back, *second.given_back}
    assert given_back
    assert reported(first, second) == Counter(range(10))
    engine.submit([request_of(i, b"prompt %d" % i, 3, ignore_eos=True) for i in given_back])
    third = poll_until(engine, is_idle)
    assert {each.request_id for each in third.results} == given_back


@pytest.mark.rest
def test_cancelled_requests_are_given_back_where_they_are_queued(
    start: Any, request_of: Any
) -> None:
    engine = start("?step_ms=5", max_seqs=2)
    first = begun(engine, request_of)
    engine.cancel([request_of(i, b"") for i in (0, 8, 9)])
    rest = poll_until(engine, is_idle)
    assert sorted(rest.given_back) == [8, 9]
    assert reported(first, rest) == Counter(range(10))
    assert 0 in {each.request_id for each in (*first.results, *rest.results)}


@pytest.mark.few(1)
def test_a_prefix_is_not_pinned_for_readers_that_are_cancelled_or_given_back(
    start: Any, request_of: Any
) -> None:
    prefix = SharedPrefix(1, 32, 12)
    engine = start("?step_ms=5", max_seqs=2, block_size=32, num_blocks=40)
    requests = [
        request_of(i, b"x" * 32 + b"%02d" % i, 30, ignore_eos=True, prefixes=(prefix,))
        for i in range(12)
    ]
    engine.submit(requests[:8])
    poll_until(engine, lambda update: update.num_waiting < 8)
    engine.cancel(requests[10:])  # never submitted
    engine.give_back()
    assert poll_until(engine, is_idle).blocks_used
    engine.cancel(requests[8:10])
    engine.submit([request_of(99, b"another", 1)])
    assert not poll_until(engine, lambda update: bool(update.results)).blocks_used


@pytest.mark.few(1)
def test_a_deadline_lets_through_what_can_be_done(start: Any, request_of: Any) -> None:
    engine = start("?step_ms=5")
    now = time.monotonic()
    engine.submit(
        [
            request_of(0, b"in time", 4, ignore_eos=True, ends_at=now + 60),
            request_of(1, b"too late", 4, ignore_eos=True, ends_at=now - 1),
            request_of(2, b"any time", 4, ignore_eos=True),
        ]
    )
    update = poll_until(engine, is_idle)
    assert sorted(each.request_id for each in update.results) == [0, 2]
    assert update.expired == [1]


@pytest.mark.few(1)
def test_close_may_be_called_again(start: Any) -> None:
    engine = start()
    engine.close()
    engine.close()
