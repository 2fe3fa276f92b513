"""An engine that survives its own death: started anew, given back what it had not answered, and
kept from the request that kills it. See PoisonBisection for how that one is found."""

import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from enum import Enum, auto

from thothy_batch.engine.process.oom_backoff import OomBackoff
from thothy_batch.engine.process.poison_bisection import PoisonBisection
from thothy_batch.engine.process.restart_events import died, given_up, steps_recover
from thothy_batch.engine.process.startup import start_first
from thothy_batch.engine.process.totals import RunningTotals
from thothy_batch.engine.protocol import RestartableEngine
from thothy_batch.errors import EngineError, ThothyError
from thothy_batch.records import (
    EngineEvent,
    EngineInfo,
    EngineSpec,
    EngineTotals,
    EngineUpdate,
    Request,
    RequestFailure,
    Sampling,
    SharedPrefix,
)

_SILENT_S = 30.0  # after which the user is told
_PAUSE = 0.25  # of the time that an engine may be silent: no healthy run polls so rarely
_MAX_FAILED_STARTS = 5
_LOADS = 3  # times the first engine's, that a later one may take to be ready, where that is longer
_FIRST_PAUSE_S = 2.0  # before a start that follows a failed one; doubled each time
# Deaths in a row with no request answered in between. To find one culprit among n takes log2(n).
_MAX_FRUITLESS = 40
_MAX_BLAMED = 3  # requests, likewise: then it is not the requests


class EngineSupervisor:
    """An EngineClient over engines that follow one another.

    Raises EngineError only where there is no hope: the engine does not start any more, or dies
    again and again without an answer, whatever it is given.
    """

    def __init__(self, start: Callable[[EngineSpec], RestartableEngine], spec: EngineSpec) -> None:
        """Starts the first engine and waits for it; its errors are raised as they are."""
        self._start, self._spec = start, spec
        self._engine = start_first(start, spec)
        self.info: EngineInfo = self._engine.info
        self._state = _State.READY
        self._in_engine: dict[int, Request] = {}  # in the order of submission
        self._held: deque[Request] = deque()  # to be submitted
        self._bisection = PoisonBisection()
        self._budget = OomBackoff(self.info.engine.max_step_tokens)
        self._books = RunningTotals()
        self._spent: Counter[tuple[SharedPrefix, ...]] = Counter()  # readers that will not come
        self._last = EngineUpdate()
        self._quarantined: list[RequestFailure] = []
        self._events: list[EngineEvent] = []
        self._num_fruitless = self._num_failed_starts = self._most_samples = 0
        self._busy_since = self._started_at = time.monotonic()
        self._polled_at = time.monotonic()
        self._start_at = 0.0  # time.monotonic() before which no engine is started
        self._is_draining = False
        self._fatal: EngineError | None = None

    def submit(self, requests: Sequence[Request]) -> None:
        if self._is_draining:
            return
        self._held.extend(requests)
        self._most_samples = max([self._most_samples, *(each.num_samples for each in requests)])
        self._guard(self._fill)

    def withdraw(self, requests: Sequence[Request]) -> None:
        self._spend(requests)
        if self._state is _State.READY:
            self._guard(lambda: self._engine.withdraw(requests))

    def stop_admitting(self) -> None:
        self._is_draining = True
        self._held.clear()
        self._quarantined.clear()  # without an answer there is no telling whether they are to blame
        if self._state is _State.READY:
            self._guard(self._engine.stop_admitting)

    def close(self) -> None:
        self._engine.close()

    def poll(self, timeout_s: float) -> EngineUpdate:
        """See EngineClient. Returns while an engine is being started, with nothing to report."""
        if self._fatal is not None and not self._events:
            raise self._fatal
        update = None
        if time.monotonic() - self._polled_at > _PAUSE * self._spec.stall_s:
            # This process stood still, and its engine maybe with it: what it says was not read.
            self._busy_since = time.monotonic()
        try:
            if self._become_ready(timeout_s):
                self._fill()
                self._check_progress()
                if self._budget.recover():
                    self._engine.limit_steps(self._budget.now)
                    self._events.append(steps_recover(self._budget.now))
                update = self._engine.poll(timeout_s)
        except EngineError as error:
            self._on_death(error)
        self._polled_at = time.monotonic()
        return self._to_run_update(update or _without_news(self._last))

    def _guard(self, call: Callable[[], None]) -> None:
        try:
            call()
        except EngineError as error:
            self._on_death(error)

    def _become_ready(self, timeout_s: float) -> bool:
        if self._state is _State.READY:
            return True
        if self._is_draining or self._fatal is not None:
            return False
        if self._state is _State.DEAD:
            wait_s = self._start_at - time.monotonic()
            if wait_s > 0:
                time.sleep(min(wait_s, timeout_s))
                return False
            self._engine, self._state = self._start(self._spec), _State.STARTING
            self._started_at = time.monotonic()
        if not self._has_loaded(timeout_s):
            return False
        self._state, self._num_failed_starts = _State.READY, 0
        self._busy_since = time.monotonic()
        self._books.next_engine()
        self._budget.restarted()
        if self._budget.is_reduced:
            self._engine.limit_steps(self._budget.now)
        stubs: list[Request] = []
        for path, num in self._spent.items():
            stubs += [_stub(path)] * num  # one object: it is sent once
        self._engine.withdraw(stubs)
        return True

    def _has_loaded(self, timeout_s: float) -> bool:
        """Raises EngineError where it cannot, or takes far longer than the first one."""
        try:
            if self._engine.ready(timeout_s):
                return True
        except EngineError:
            raise
        except ThothyError as error:  # of its model: the night has begun, so it is no bad usage
            raise EngineError(error.message, hint=error.hint, cause="model") from error
        took_s = time.monotonic() - self._started_at
        if took_s > max(self._spec.stall_s, _LOADS * self.info.load_s):
            where = self._engine.dump_stacks()
            raise EngineError(f"it was not ready after {took_s:.0f} s; {where}", cause="stalled")
        return False

    def _fill(self) -> None:
        """Submit what waits, as far as it may be computed now."""
        if self._state is not _State.READY or not self._held:
            return
        batch = [each for each in self._held if self._bisection.may_run(each.request_id)]
        if not batch:
            return
        if not self._in_engine:
            self._busy_since = time.monotonic()
        self._engine.submit(batch)
        # Only now: of a dead engine nothing more was in flight.
        sent = {each.request_id: each for each in batch}
        self._held = deque(each for each in self._held if each.request_id not in sent)
        self._in_engine |= sent

    def _check_progress(self) -> None:
        silent_s = self._silent_s
        if not silent_s or silent_s < self._spec.stall_s:
            return
        where = self._engine.dump_stacks()
        raise EngineError(f"no step was finished for {silent_s:.0f} s; {where}", cause="stalled")

    @property
    def _silent_s(self) -> float:
        if self._state is not _State.READY or not self._in_engine:
            return 0.0
        return time.monotonic() - max(self._engine.heard_at, self._busy_since)

    def _on_death(self, error: EngineError) -> None:
        """The engine has died: what it had not answered is computed by the next one."""
        was_ready = self._state is _State.READY
        self._engine.close()
        self._state = _State.DEAD
        lost = self._books.close_engine(self._last.totals)
        self._last = replace(self._last, totals=EngineTotals())
        if not self._is_draining:
            self._attribute(error) if was_ready else self._back_off(error)
        is_over = self._is_draining or self._fatal is not None
        num_again = 0 if is_over else len(self._in_engine)
        smaller = self._budget.now if error.cause == "memory" and self._budget.is_reduced else 0
        self._events.append(died(error, num_again, lost, at_start=not was_ready, smaller=smaller))
        if self._is_draining:
            self._in_engine.clear()
        self._held.extendleft(reversed(self._in_engine.values()))
        self._in_engine.clear()

    def _back_off(self, error: EngineError) -> None:
        """An engine died before it was ready. That is the end where it is not the first time."""
        self._num_failed_starts += 1
        if error.cause == "memory" and self._budget.halve(self._most_samples):
            self._spec = replace(self._spec, max_step_tokens=self._budget.now)
        if self._num_failed_starts >= _MAX_FAILED_STARTS or error.cause == "model":
            self._fatal = error
        pause_s = _FIRST_PAUSE_S * 2 ** (self._num_failed_starts - 1)
        self._start_at = time.monotonic() + pause_s

    def _attribute(self, error: EngineError) -> None:
        """Steps are made smaller where memory was short; else a request may have killed it."""
        self._num_fruitless += 1
        if self._num_fruitless > _MAX_FRUITLESS:
            self._fatal = error
            return
        if error.cause == "memory" and self._budget.halve(self._most_samples):
            return
        culprit = self._bisection.died(list(self._in_engine))
        if culprit is None:
            return
        if len(self._quarantined) >= _MAX_BLAMED - 1:
            self._fatal = error
            return
        request = self._in_engine.pop(culprit)
        self._spend([request])
        self._quarantined.append(given_up(request, error))

    def _to_run_update(self, update: EngineUpdate) -> EngineUpdate:
        """An engine's update as one of the whole run."""
        self._last = _without_news(update)
        for result in update.results:
            self._settle(result.request_id)
            self._books.keep(result)
        for failure in update.failures:
            self._settle(failure.request_id)
        for request_id in update.expired:
            self._settle(request_id)
        if update.results:
            self._num_fruitless = 0
        release = bool(update.results) or not (self._in_engine or self._held or self._fatal)
        withheld, self._quarantined = (
            (self._quarantined, []) if release else ([], self._quarantined)
        )
        if not update.results:  # nobody else was answered since: it may have been the machine
            withheld = [replace(each, is_certain=False) for each in withheld]
        events, self._events = self._events, []
        events += [EngineEvent("request_quarantined", f.message, 1, 0) for f in withheld]
        is_ready, since = self._state is _State.READY, self._books.since_s
        return replace(
            update,
            results=[replace(each, queue_s=each.queue_s + since) for each in update.results],
            failures=[*update.failures, *withheld],
            steps=[replace(each, at_s=each.at_s + since) for each in update.steps],
            totals=self._books.of_run(update.totals),
            num_running=update.num_running if is_ready else 0,
            num_waiting=(update.num_waiting if is_ready else 0) + len(self._held),
            blocks_total=update.blocks_total or self.info.engine.num_blocks,
            events=events,
            condition=self._condition(),
        )

    def _condition(self) -> str:
        if self._state is not _State.READY and not self._is_draining:
            return "restarting"
        return "stalled" if self._silent_s >= min(_SILENT_S, self._spec.stall_s / 2) else ""

    def _settle(self, request_id: int) -> None:
        self._spend([self._in_engine.pop(request_id)])
        self._bisection.settled(request_id)

    def _spend(self, requests: Sequence[Request]) -> None:
        self._spent.update(each.prefixes for each in requests if each.prefixes)


class _State(Enum):
    """Of the engine that is there now."""

    STARTING = auto()
    READY = auto()
    DEAD = auto()


def _stub(path: tuple[SharedPrefix, ...]) -> Request:
    """A request of which only its planned prefixes matter."""
    return Request(-1, "", (), Sampling(), prefixes=path)


def _without_news(update: EngineUpdate) -> EngineUpdate:
    """The state of things alone."""
    return replace(update, results=[], failures=[], steps=[], events=[], expired=[])
