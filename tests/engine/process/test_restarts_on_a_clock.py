"""The supervisor on a clock of its own: when it restarts an engine, waits, or gives up."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from thothy_batch.engine.process.restart_policy import RestartPolicy
from thothy_batch.engine.process.stall_watch import StallWatch
from thothy_batch.engine.process.supervisor import EngineSupervisor
from thothy_batch.errors import EngineError, ModelError
from thothy_batch.records import (
    EngineInfo,
    EngineSpec,
    EngineUpdate,
    FailureCode,
    LayerGroup,
    Request,
    RequestResult,
    ResolvedEngine,
    ResolvedModel,
    Sampling,
    SharedPrefix,
)

ENGINE = ResolvedEngine(
    device="cpu",
    impl="cpu",
    dtype="float32",
    num_blocks=8,
    max_seqs=4,
    max_step_tokens=512,
    max_model_len=64,
    admission="reserve",
    prefix_sharing=True,
    threads=1,
    speculation=False,
    bulk_tokens=0,
    block_size=4,
    layer_groups=(LayerGroup((0,)),),
)
INFO = EngineInfo(ResolvedModel("a model", None, "float32"), ENGINE, {}, load_s=2.0)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Engine:
    """Does what the test says: `error` is raised by the next call, `update` is reported next."""

    def __init__(self, clock: Clock, spec: EngineSpec, *, loads: bool = True) -> None:
        most = spec.max_step_tokens or ENGINE.max_step_tokens
        self.info = replace(INFO, engine=replace(ENGINE, max_step_tokens=most))
        self.set_pool(ENGINE.num_blocks)
        self.clock = clock
        self.heard_at = clock.now
        self.calls: list[tuple[str, Any]] = []
        self.loads: bool | Exception = loads
        self.error: EngineError | None = None
        self.update = EngineUpdate()

    def set_pool(self, num_blocks: int) -> None:
        self.info = replace(self.info, engine=replace(self.info.engine, num_blocks=num_blocks))

    def _call(self, name: str, argument: Any = None) -> None:
        if self.error is not None:
            raise self.error
        self.calls.append((name, argument))

    def called(self, name: str) -> list[Any]:
        return [argument for each, argument in self.calls if each == name]

    def ready(self, timeout_s: float | None) -> bool:
        if isinstance(self.loads, Exception):
            raise self.loads
        return self.loads

    def submit(self, requests: Sequence[Request]) -> None:
        self._call("submit", [each.request_id for each in requests])

    def cancel(self, requests: Sequence[Request]) -> None:
        self._call("cancel", [each.prefixes for each in requests])

    def stop_admitting(self) -> None:
        self._call("stop_admitting")

    def give_back(self) -> None:
        self._call("give_back")

    def limit_steps(self, max_step_tokens: int) -> None:
        self._call("limit_steps", max_step_tokens)

    def poll(self, timeout_s: float) -> EngineUpdate:
        self._call("poll")
        update, self.update = self.update, EngineUpdate()
        return update

    def dump_stacks(self) -> str:
        return "here are its stacks"

    def close(self) -> None:
        self.calls.append(("close", None))


class Bench:
    """A supervisor, and every engine that it started."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.engines: list[Engine] = []
        self.loads: bool | Exception = True  # of later engines
        self.num_blocks = ENGINE.num_blocks  # of later engines
        spec = EngineSpec(stall_s=100.0)
        self.supervisor = EngineSupervisor(
            self._start, spec, clock=self.clock, sleep=self.clock.sleep
        )

    def _start(self, spec: EngineSpec) -> Any:
        self.engines.append(Engine(self.clock, spec))
        self.engines[-1].loads = self.loads
        self.engines[-1].set_pool(self.num_blocks)
        return self.engines[-1]

    @property
    def engine(self) -> Engine:
        return self.engines[-1]

    def poll(self) -> EngineUpdate:
        return self.supervisor.poll(1.0)

    def die(self, cause: str = "") -> EngineUpdate:
        self.engine.error = EngineError("it broke", cause=cause)
        return self.poll()


def request(request_id: int, **more: Any) -> Request:
    return Request(request_id, "", (1,), Sampling(), **more)


def result(request_id: int) -> RequestResult:
    return RequestResult(request_id, (), 1, 0, 0, 0, 0.0, 0.0)


def test_the_next_engine_starts_at_once_and_gets_the_requests_in_order() -> None:
    bench = Bench()
    bench.supervisor.submit([request(i) for i in range(5)])
    bench.engine.update = EngineUpdate(results=[result(1)])
    bench.poll()
    update = bench.die()
    assert update.condition == "restarting"
    assert [event.num_requests for event in update.events] == [4]
    bench.poll()
    assert len(bench.engines) == 2
    assert bench.engine.called("submit") == [[0, 2, 3, 4]]
    assert bench.engines[0].called("close")


def test_starts_that_fail_wait_twice_as_long_each_time_and_end_the_run() -> None:
    bench = Bench()
    bench.supervisor.submit([request(0)])
    bench.die()
    bench.loads = EngineError("no memory")
    began, starts = bench.clock.now, []

    def poll_forever() -> None:
        while True:
            num = len(bench.engines)
            bench.poll()
            if len(bench.engines) > num:
                starts.append(bench.clock.now - began)

    with pytest.raises(EngineError, match="no memory"):
        poll_forever()
    assert starts == [0, 2, 2 + 4, 2 + 4 + 8, 2 + 4 + 8 + 16]


def test_a_model_that_changed_ends_the_run_at_once() -> None:
    bench = Bench()
    bench.die()
    bench.loads = ModelError("it is another one")
    assert "it is another one" in bench.poll().events[0].message
    with pytest.raises(EngineError, match="another one"):
        bench.poll()


def test_silence_is_shown_first_and_ends_the_engine_later() -> None:
    bench = Bench()
    bench.supervisor.submit([request(0)])
    bench.poll()
    shown: list[str] = []
    while "restarting" not in shown:
        bench.clock.now += 10
        update = bench.poll()
        shown.append(update.condition)
    assert shown == [""] * 2 + ["stalled"] * 7 + ["restarting"]
    (event,) = update.events
    assert "no step was finished for 100 s; here are its stacks" in event.message


def test_a_pause_of_this_process_is_no_silence_of_the_engine() -> None:
    bench = Bench()
    bench.supervisor.submit([request(0)])
    bench.poll()
    bench.clock.now += 1e6
    assert bench.poll().condition == ""
    assert len(bench.engines) == 1


def test_an_idle_engine_may_be_silent() -> None:
    bench = Bench()
    for _ in range(50):
        bench.clock.now += 10
        assert bench.poll().condition == ""


def test_memory_halves_steps_and_time_doubles_them_again() -> None:
    bench = Bench()
    bench.supervisor.submit([request(0)])
    assert bench.die("memory").events[0].message.endswith("at most 256 tokens")
    bench.poll()
    assert bench.engine.called("limit_steps") == [256]
    bench.clock.now += 300
    bench.engine.heard_at = bench.clock.now
    assert [event.event for event in bench.poll().events] == ["step_budget_raised"]
    assert bench.engine.called("limit_steps") == [256, 512]


def test_an_engine_started_with_smaller_steps_is_not_promised_larger_ones() -> None:
    bench = Bench()
    bench.die()
    bench.loads = EngineError("no memory", cause="memory")
    bench.poll()
    bench.loads = True
    bench.clock.now += 2
    bench.poll()
    assert bench.engine.info.engine.max_step_tokens == 256
    bench.clock.now += 1e6
    assert bench.poll().events == []
    assert bench.engine.called("limit_steps") == []
    assert bench.die("memory").events[0].message.endswith("at most 128 tokens")


def test_a_dead_engine_defers_nothing() -> None:
    bench = Bench()
    bench.supervisor.submit([request(0)])
    bench.engine.update = EngineUpdate(num_waiting=1, num_deferred=1)
    assert bench.poll().num_deferred == 1
    update = bench.die()
    assert (update.num_deferred, update.num_waiting) == (0, 1)


def test_the_next_engine_knows_which_planned_readers_are_done() -> None:
    bench = Bench()
    path = (SharedPrefix(1, 4, 3),)
    bench.supervisor.submit([request(0, prefixes=path), request(1, prefixes=path)])
    bench.supervisor.cancel([request(2, prefixes=path)])
    bench.engine.update = EngineUpdate(results=[result(0)])
    bench.poll()
    bench.die()
    bench.poll()
    assert bench.engine.called("cancel") == [[path, path]]


def test_a_death_while_draining_gives_everything_back() -> None:
    bench = Bench()
    bench.supervisor.submit([request(i) for i in range(3)])
    bench.poll()
    bench.supervisor.stop_admitting()
    update = bench.die()
    assert update.given_back == [0, 1, 2]
    assert (update.num_running, update.num_waiting, update.condition) == (0, 0, "")
    bench.poll()
    assert len(bench.engines) == 1


def test_requests_held_for_the_next_engine_are_given_back_and_cancelled() -> None:
    bench = Bench()
    bench.supervisor.submit([request(i) for i in range(4)])
    bench.die()
    bench.supervisor.cancel([request(2)])
    assert bench.supervisor._requests.num_held == 3
    bench.supervisor.give_back()
    update = bench.poll()
    assert update.given_back == [2, 0, 1, 3]
    assert update.num_waiting == 0
    assert bench.engine.called("submit") == []


def test_a_culprit_that_is_given_back_ends_the_search_for_it() -> None:
    bench = Bench()
    bench.supervisor.submit([request(i) for i in range(4)])
    for _ in range(2):
        bench.die()
        bench.poll()
    assert bench.engine.called("submit") == [[0, 1]], "half of the suspects"
    bench.engine.update = EngineUpdate(given_back=[0, 1])
    bench.poll()
    bench.poll()
    assert bench.engine.called("submit") == [[0, 1], [2]]


def sized(request_id: int, num_tokens: int) -> Request:
    """A request of so many tokens; the first engine's pool holds 32."""
    return Request(request_id, "", (1,) * (num_tokens - 2), Sampling(max_tokens=2))


def with_a_smaller_pool() -> Bench:
    """The engine died over a long request and two short ones, and came back with half the pool."""
    bench = Bench()
    bench.supervisor.submit([sized(0, 30), sized(1, 10), sized(2, 10)])
    bench.poll()
    bench.num_blocks = ENGINE.num_blocks // 2
    bench.die()
    assert [event.event for event in bench.poll().events] == ["pool_shrunk"]
    assert bench.engine.called("submit") == [[1, 2]], "the long one waits"
    bench.engine.update = EngineUpdate(results=[result(1), result(2)])
    assert bench.poll().num_waiting == 1
    return bench


def test_a_request_too_large_for_a_restarted_engine_gets_another_one_at_the_end() -> None:
    bench = with_a_smaller_pool()
    bench.num_blocks = ENGINE.num_blocks
    (event,) = bench.poll().events
    assert (event.event, event.num_requests) == ("larger_pool_wanted", 1)
    assert bench.poll().events == []
    assert len(bench.engines) == 3
    assert bench.engine.called("submit") == [[0]]
    bench.engine.update = EngineUpdate(results=[result(0)])
    assert [each.request_id for each in bench.poll().results] == [0]


def test_a_request_that_fits_no_later_engine_is_left_to_the_next_run() -> None:
    """Memory was short, which is no fault of the row: it did fit when the run began."""
    bench = with_a_smaller_pool()
    failures: list[Any] = []
    while not failures:
        failures = bench.poll().failures
    assert len(bench.engines) == 2 + 2, "each start loads the model"
    (failure,) = failures
    assert (failure.request_id, failure.code) == (0, FailureCode.ENGINE_ERROR)
    assert not failure.is_certain
    assert "memory became short during the run: prompt of 28 tokens + max_tokens 2 " in (
        failure.message
    )
    assert bench.poll().num_waiting == 0
    bench.supervisor.submit([sized(3, 10)])
    assert bench.engine.called("submit") == [[3]]


def test_a_request_that_never_fit_is_refused_by_the_engine() -> None:
    bench = Bench()
    bench.num_blocks = ENGINE.num_blocks // 2
    bench.die()
    bench.supervisor.submit([sized(0, 60)])
    bench.poll()
    assert bench.engine.called("submit") == [[0]]


def test_deaths_without_a_result_are_counted_and_a_result_forgives_them() -> None:
    policy = RestartPolicy()
    error = EngineError("x")
    for _ in range(40):
        policy.died(error)
    assert policy.fatal is None
    policy.made_progress()
    for _ in range(41):
        policy.died(error)
    assert policy.fatal is error


def test_silence_counts_from_the_last_message_or_the_begin_of_work() -> None:
    clock = Clock()
    watch = StallWatch(40.0, clock)
    clock.now += 30
    assert watch.silent_s(heard_at=990.0) == 30
    assert watch.silent_s(heard_at=1020.0) == 10
    assert watch.is_shown(20.0)
    assert not watch.is_stalled(39.9)
    assert watch.is_stalled(40.0)
