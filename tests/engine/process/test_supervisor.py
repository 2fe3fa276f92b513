"""An engine that dies, hangs or runs short of memory is followed by another; a request fails only
through its own fault."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from engine_driver import drain

from thothy_batch.engine.process.engine_process import EngineProcess
from thothy_batch.engine.process.supervisor import EngineSupervisor
from thothy_batch.engine.start import start_in_process
from thothy_batch.errors import EngineError, ModelError
from thothy_batch.records import EngineSpec, EngineUpdate, FailureCode, ModelSpec, SharedPrefix

POISON = ord("#")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Start supervised engines of the fake model; they are closed at the end."""
    started = []

    def make(knobs: str, **settings: Any) -> Any:
        spec = EngineSpec(model=ModelSpec(id=f"builtin:fake{knobs}"), **settings)
        child = partial(EngineProcess.start, log_path=tmp_path / "engine.log")
        started.append(EngineSupervisor(child, spec, clock=time.monotonic))
        return started[-1]

    yield make
    for engine in started:
        engine.close()


def tokens(update: EngineUpdate) -> dict[int, Any]:
    assert len({result.request_id for result in update.results}) == len(update.results)
    return {
        result.request_id: [completion.token_ids for completion in result.completions]
        for result in update.results
    }


def undisturbed(requests: list[Any]) -> dict[int, Any]:
    engine = start_in_process(EngineSpec(model=ModelSpec(id="builtin:fake")))
    engine.submit(requests)
    return tokens(drain(engine))


def rows(request_of: Any, num: int, poison: tuple[int, ...] = ()) -> list[Any]:
    return [
        request_of(
            i,
            (b"# deadly %d" if i in poison else b"row %d") % i,
            8,
            ignore_eos=True,
            temperature=0.7 * (i % 2),
            seed=i,
        )
        for i in range(num)
    ]


@pytest.mark.rest
@pytest.mark.parametrize("how", ["kill", "segv", "exit", "error"])
def test_one_death_loses_nothing_and_repeats_nothing(
    how: str, start: Any, request_of: Any, tmp_path: Path
) -> None:
    requests = rows(request_of, 60)
    engine = start(
        f"?fail={how}&fail_at_step=5&step_ms=60&fail_once={tmp_path / 'died'}", max_seqs=8
    )
    engine.submit(requests)
    update = drain(engine)
    assert tokens(update) == undisturbed(requests)
    assert not update.failures
    (event,) = update.events
    assert event.event == "engine_died"
    assert event.message.startswith("the engine died: the engine ")
    assert 0 < event.num_requests <= 60
    assert update.totals.output_tokens >= 60 * 8
    at = [step.at_s for step in update.steps]
    assert at == sorted(at)


@pytest.mark.few(1)
@pytest.mark.parametrize("how", ["segv", "error"])
def test_a_poison_row_is_quarantined_and_no_other(how: str, start: Any, request_of: Any) -> None:
    requests = rows(request_of, 40, (17,))
    engine = start(f"?fail={how}&poison={POISON}", max_seqs=16)
    engine.submit(requests[:30])
    engine.submit(requests[30:])
    update = drain(engine)
    good = [request for request in requests if request.request_id != 17]
    assert tokens(update) == undisturbed(good)
    (failure,) = update.failures
    assert (failure.request_id, failure.code) == (17, FailureCode.ENGINE_ERROR)
    assert "each time it computed this row" in failure.message
    assert [event.event for event in update.events].count("request_quarantined") == 1


@pytest.mark.rest
def test_a_hang_ends_with_stacks_in_the_log(
    start: Any, request_of: Any, tmp_path: Path, shifted_clock: Any
) -> None:
    requests = rows(request_of, 10)
    hung = tmp_path / "hung"
    engine = start(f"?fail=hang&fail_at_step=3&fail_once={hung}", stall_s=600.0)
    engine.submit(requests)
    conditions = set()
    whole = EngineUpdate()
    while len(whole.results) < 10:
        update = engine.poll(0.2)
        whole.results += update.results
        whole.events += update.events
        conditions.add(update.condition)
        if hung.exists() and not whole.events:
            shifted_clock.advance(100.0)
    assert tokens(whole) == undisturbed(requests)
    assert {"stalled", "restarting", ""} <= conditions
    (event,) = whole.events
    assert "no step was finished for " in event.message
    log = (tmp_path / "engine.log").read_text()
    assert str(tmp_path / "engine.log") in event.message
    assert "_fail" in log, "the place where it hung"


def test_steps_become_smaller_where_memory_was_short(
    start: Any, request_of: Any, tmp_path: Path
) -> None:
    requests = rows(request_of, 10)
    knobs = f"?fail=memory&fail_at_step=2&fail_once={tmp_path / 'short'}"
    engine = start(knobs, max_step_tokens=512)
    assert engine.info.engine.max_step_tokens == 512
    engine.submit(requests)
    update = drain(engine)
    assert tokens(update) == undisturbed(requests)
    assert "ran out of memory" in update.events[0].message
    assert update.events[0].message.endswith("its steps have at most 256 tokens")


@pytest.mark.rest
@pytest.mark.parametrize("knobs", ["?fail=error", "?fail=error&fail_at_step=2"])
def test_an_engine_that_always_dies_is_given_up(knobs: str, start: Any, request_of: Any) -> None:
    """No request is blamed for it: those that the search ended at are as innocent as the others."""
    engine = start(knobs, max_seqs=4)
    engine.submit(rows(request_of, 6))
    failures: list[Any] = []

    def work() -> None:
        for _ in range(1000):
            failures.extend(engine.poll(0.2).failures)

    with pytest.raises(EngineError, match="the fake model was asked to fail"):
        work()
    assert not failures


def test_what_is_wrong_from_the_start_is_raised_at_once(start: Any) -> None:
    with pytest.raises(ModelError):
        start("?no=such")


def test_a_death_while_the_run_drains_ends_it(
    start: Any, request_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THOTHY_FAULTS", f"engine.step:6=hold:{tmp_path / 'release'}")
    engine = start("", max_seqs=2)
    engine.submit(rows(request_of, 9))
    while not (tmp_path / "release.held").exists():
        engine.poll(0.1)
    engine.stop_admitting()
    engine.give_back()
    os.kill(engine._slot.engine.pid, signal.SIGKILL)
    update = drain(engine)
    assert not update.failures
    engine.submit(rows(request_of, 2))
    assert not drain(engine).results


@pytest.mark.rest
def test_finished_planned_readers_are_not_waited_for(
    start: Any, request_of: Any, tmp_path: Path
) -> None:
    """The next engine pins a planned prefix only for readers that are still pending."""
    prefix = SharedPrefix(1, 32, 12)
    requests = [
        request_of(i, b"x" * 32 + b"%02d" % i, 30, ignore_eos=True, prefixes=(prefix,))
        for i in range(12)
    ]
    knobs = f"?fail=kill&fail_at_step=70&step_ms=5&fail_once={tmp_path / 'died'}"
    engine = start(knobs, max_seqs=4, block_size=32, num_blocks=40)
    engine.submit(requests)
    update = drain(engine)
    assert len(update.results) == 12
    assert len(update.events) == 1
    assert engine.poll(0.1).blocks_used == 0


@pytest.mark.rest
def test_the_last_row_is_not_to_blame_for_good(start: Any, request_of: Any) -> None:
    """It died alone, twice; but no other was finished since: it may have been the machine."""
    engine = start(f"?fail=kill&poison={POISON}")
    engine.submit(rows(request_of, 1, poison=(0,)))
    (failure,) = drain(engine).failures
    assert failure.code is FailureCode.ENGINE_ERROR
    assert not failure.is_certain
    engine = start(f"?fail=kill&poison={POISON}", max_seqs=4)
    engine.submit(rows(request_of, 30, poison=(3,)))
    (failure,) = drain(engine).failures
    assert failure.is_certain
