"""Requests that would miss their deadline are not started; a fake model with steps of 20 ms."""

import time
from typing import Any

import pytest

from thothy_batch.engine.core.sequence import Clock, Sequence
from thothy_batch.engine.cost.cost_model import CostModel, GroupWork, ModelWork, StepSpeed
from thothy_batch.engine.in_process import InProcessEngine
from thothy_batch.engine.scheduling.deadline_gate import DeadlineGate
from thothy_batch.records import EngineSpec, EngineUpdate, ModelSpec, Request, Sampling

STEP_S = 0.02

pytestmark = pytest.mark.usefixtures("virtual_clock")


def request(number: int, num_tokens: int, left_s: float | None, **more: Any) -> Request:
    return Request(
        number,
        str(number),
        list(b"some text %d" % number),
        Sampling(max_tokens=num_tokens, ignore_eos=True),
        ends_at=None if left_s is None else time.monotonic() + left_s,
        **more,
    )


@pytest.fixture
def engine(virtual_clock: Any) -> InProcessEngine:
    model = ModelSpec(id=f"builtin:fake?step_ms={STEP_S * 1000:g}")
    return InProcessEngine.start(EngineSpec(model=model, max_seqs=4, num_blocks=256))


def run(engine: InProcessEngine) -> EngineUpdate:
    """Until the engine has nothing left to do; what it reported, as one."""
    whole = EngineUpdate()
    while engine.engine.has_work:
        update = engine.poll(0.1)
        engine.engine.check_integrity()
        whole.results += update.results
        whole.failures += update.failures
        whole.expired += update.expired
    last = engine.poll(0)
    whole.expired += last.expired
    assert last.num_running == last.num_waiting == last.num_deferred == 0
    assert last.blocks_used == 0
    return whole


def ids(update: EngineUpdate) -> list[int]:
    return sorted(result.request_id for result in update.results)


def test_without_deadlines_every_request_completes(engine: InProcessEngine) -> None:
    engine.submit([request(i, 5, None) for i in range(10)])
    assert ids(run(engine)) == list(range(10))


def test_an_expired_request_is_never_started(engine: InProcessEngine) -> None:
    engine.submit([request(0, 5, None), request(1, 5, -1.0), request(2, 5, 60.0)])
    update = run(engine)
    assert ids(update) == [0, 2]
    assert update.expired == [1]
    assert update.failures == []


def test_long_requests_are_skipped_and_shorter_ones_run(engine: InProcessEngine) -> None:
    engine.submit([request(0, 20, None)])
    run(engine)  # how long a token takes is known now
    began = time.monotonic()
    long = [request(i, 2000, 4.0) for i in range(1, 9)]  # 40 s each
    short = [request(i, 20, 4.0) for i in range(9, 17)]
    engine.submit([*long, *short])
    update = run(engine)
    assert ids(update) == list(range(9, 17))
    assert sorted(update.expired) == list(range(1, 9))
    assert time.monotonic() - began < 4.0, "no request waits for a deadline that it cannot meet"


def test_later_stages_count(engine: InProcessEngine) -> None:
    engine.submit([request(0, 20, None)])
    run(engine)
    engine.submit([request(1, 20, 4.0, later_tokens=2000), request(2, 20, 4.0, later_tokens=20)])
    update = run(engine)
    assert (ids(update), update.expired) == ([2], [1])


def test_prompts_of_later_stages_count(engine: InProcessEngine) -> None:
    engine.submit([request(0, 20, None)])
    run(engine)
    long, short = (request(i, 20, 4.0, later_prompt_tokens=num) for i, num in ((1, 10**6), (2, 9)))
    engine.submit([long, short])
    update = run(engine)
    assert (ids(update), update.expired) == ([2], [1])


def test_a_deferred_request_is_admitted_once_the_engine_is_faster(engine: InProcessEngine) -> None:
    """Beside long prompts tokens were slow; requests deferred for that are started later."""
    engine.submit([request(0, 20, None)])
    run(engine)
    gate = engine.engine._gate
    gate._token.note(100.0, 1.0, 0.0)  # 100 s a token, so it seems
    engine.submit([request(1, 40, None), request(2, 20, 30.0)])
    update = run(engine)
    assert ids(update) == [1, 2]
    assert update.expired == []


def test_a_stop_drops_deferred_requests_like_waiting_ones(engine: InProcessEngine) -> None:
    engine.submit([request(0, 20, None)])
    run(engine)
    engine.submit([request(1, 200, None), request(2, 2000, 4.0)])
    while not engine.poll(0.05).num_deferred:
        pass
    engine.stop_admitting()
    engine.give_back()
    assert engine.poll(0.01).num_waiting == 0
    update = run(engine)
    assert (ids(update), update.expired) == ([1], [])


def test_smaller_steps_compute_the_same(engine: InProcessEngine) -> None:
    requests = [request(i, 7, None) for i in range(9)]
    engine.submit(requests)
    whole = {r.request_id: r.completions for r in run(engine).results}
    engine.engine.limit_steps(2)
    engine.submit(requests)
    peak = 0
    again: dict[int, Any] = {}
    while engine.engine.has_work:
        update = engine.poll(0.0)
        peak = max(peak, update.num_running)
        again |= {r.request_id: r.completions for r in update.results}
    assert again == whole
    assert peak == 2, "no more sequences than a step has tokens"
    engine.engine.limit_steps(10**9)
    engine.submit(requests)
    assert {r.request_id: r.completions for r in run(engine).results} == whole


@pytest.mark.parametrize(("left_s", "starts"), [(4.0, False), (6.0, True), (None, True)])
def test_before_the_first_step_the_cost_model_decides(left_s: float | None, starts: bool) -> None:
    """1,000 tokens at 10 ms, halved because nothing was measured yet."""
    speed = StepSpeed(((1.0, 0.01),), ((1.0, 0.0),), 0.0, 0.0, 0.0)
    cost = CostModel(ModelWork(1, 1, 4, 1, 1, (GroupWork(1, None, 1),)), speed)
    gate = DeadlineGate(time.monotonic, cost)
    seq = Sequence.first_of(request(0, 1000, left_s), Clock())
    for alone in (True, False):
        assert gate.can_finish_in_time(seq, 0, alone=alone) == starts
