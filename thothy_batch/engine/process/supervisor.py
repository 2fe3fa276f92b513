"""An engine that survives its own death: it is restarted, its unfinished requests are computed
again, and the request that kills it is found and quarantined."""

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace

from thothy_batch.engine.process import restart_events
from thothy_batch.engine.process.cancelled_readers import CancelledReaders
from thothy_batch.engine.process.engine_slot import EngineSlot, StartEngine
from thothy_batch.engine.process.oom_backoff import OomBackoff
from thothy_batch.engine.process.poison_bisection import PoisonBisection
from thothy_batch.engine.process.quarantine import Quarantine
from thothy_batch.engine.process.restart_policy import RestartPolicy
from thothy_batch.engine.process.running_totals import RunningTotals
from thothy_batch.engine.process.shrunken_pool import ShrunkenPool
from thothy_batch.engine.process.stall_watch import StallWatch
from thothy_batch.engine.process.unfinished_requests import UnfinishedRequests
from thothy_batch.errors import EngineError
from thothy_batch.records import (
    EngineInfo,
    EngineSpec,
    EngineTotals,
    EngineUpdate,
    Request,
    RequestFailure,
)


class EngineSupervisor:
    """An EngineClient over engines that follow one another.

    Raises EngineError only where restarting is hopeless: the engine does not start any more, or
    dies again and again without a result, whatever it is given. `clock` is the monotonic clock of
    this process, which the engines' `heard_at` is measured by; `sleep` passes time on it.
    """

    def __init__(
        self,
        start: StartEngine,
        spec: EngineSpec,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Start the first engine and wait for it; its errors are raised as they are."""
        self._slot = EngineSlot(start, spec, clock)
        self.info: EngineInfo = self._slot.engine.info
        self._requests = UnfinishedRequests()
        self._readers = CancelledReaders()
        self._bisection = PoisonBisection()
        self._quarantine = Quarantine()
        self._backoff = OomBackoff(self.info.engine.max_step_tokens, clock)
        self._policy = RestartPolicy(clock)
        self._watch = StallWatch(spec.stall_s, clock)
        self._totals = RunningTotals(clock)
        self._pool = ShrunkenPool(self.info.engine)
        self._sleep = sleep
        self._last = EngineUpdate()  # the state that the engine reported last, without its news
        self._news = EngineUpdate()  # events, failures and ids given back, for the next update
        self._is_draining = False

    def submit(self, requests: Sequence[Request]) -> None:
        if self._is_draining:
            self._news.given_back += [each.request_id for each in requests]
            return
        self._requests.hold(requests)
        self._guard(self._submit_held)

    def cancel(self, requests: Sequence[Request]) -> None:
        self._drop_held({each.request_id for each in requests})
        # Those in the engine count as cancelled once they are given back or finished.
        elsewhere = [each for each in requests if each.request_id not in self._requests]
        self._readers.add(elsewhere)
        if self._slot.is_ready:
            self._guard(lambda: self._slot.engine.cancel(requests))

    def stop_admitting(self) -> None:
        self._is_draining = True
        self._news.given_back += self._quarantine.clear()
        if self._slot.is_ready:
            self._guard(self._slot.engine.stop_admitting)

    def give_back(self) -> None:
        held = self._drop_held(None)
        self._readers.add(held)
        if self._slot.is_ready:
            self._guard(lambda: self._slot.engine.cancel(held))
        if self._slot.is_ready:
            self._guard(self._slot.engine.give_back)

    def close(self) -> None:
        self._slot.engine.close()

    def poll(self, timeout_s: float) -> EngineUpdate:
        """See EngineClient. Returns while an engine is being started, with nothing to report."""
        if self._policy.fatal is not None and not (self._news.events or self._news.given_back):
            raise self._policy.fatal
        update = None
        self._watch.before_poll()
        try:
            if self._become_ready(timeout_s):
                self._submit_held()
                self._check_pool()
            if self._slot.is_ready:
                self._check_progress()
                self._recover_steps()
                update = self._slot.engine.poll(timeout_s)
        except EngineError as error:
            self._on_death(error)
        self._watch.after_poll()
        return self._to_run_update(update or _without_news(self._last))

    def _guard(self, call: Callable[[], None]) -> None:
        try:
            call()
        except EngineError as error:
            self._on_death(error)

    def _become_ready(self, timeout_s: float) -> bool:
        slot = self._slot
        if slot.is_ready:
            return True
        if self._is_draining or self._policy.fatal is not None:
            return False
        if slot.is_dead:
            if (pause_s := self._policy.pause_s) > 0:
                self._sleep(min(pause_s, timeout_s))
                return False
            slot.start_next()
        if not slot.wait(timeout_s):
            return False
        self._policy.started()
        self._watch.restart()
        self._totals.next_engine()
        self._backoff.restarted(slot.engine.info.engine.max_step_tokens)
        if self._backoff.is_reduced:
            slot.engine.limit_steps(self._backoff.max_step_tokens)
        slot.engine.cancel(self._readers.stubs())
        self._pool.restarted(slot.engine.info.engine)
        if self._pool.is_smaller:
            self._news.events.append(restart_events.pool_shrunk(self._pool.num_tokens))
        return True

    def _submit_held(self) -> None:
        """Submit what is held, as far as the search for a culprit allows."""
        if not self._slot.is_ready or self._is_draining:
            return
        if not self._requests.num_in_engine:
            self._watch.restart()
        # Only after that: of a dead engine nothing more was in flight.
        self._requests.submit(self._may_run, self._slot.engine.submit)

    def _may_run(self, request: Request) -> bool:
        return self._bisection.may_run(request.request_id) and self._pool.may_run(request)

    def _check_pool(self) -> None:
        """Once only requests too large for the pool are left, start an engine, or give them up."""
        if self._requests.num_in_engine or self._is_draining or not self._pool.is_smaller:
            return
        waiting = [each for each in self._requests.held if not self._pool.may_run(each)]
        if not waiting:
            return
        if self._pool.start_again():
            self._close_engine()
            self._news.events.append(restart_events.larger_pool_wanted(len(waiting)))
            return
        self._requests.drop_held({each.request_id for each in waiting})
        for each in waiting:
            self._bisection.remove(each.request_id)
        self._news.failures += self._pool.failures(waiting)
        self._readers.add(waiting)
        self._slot.engine.cancel(waiting)

    def _check_progress(self) -> None:
        silent_s = self._silent_s
        if self._watch.is_stalled(silent_s):
            where = self._slot.engine.dump_stacks()
            raise EngineError(
                f"no step was finished for {silent_s:.0f} s; {where}", cause="stalled"
            )

    def _recover_steps(self) -> None:
        if self._backoff.recover():
            most = self._backoff.max_step_tokens
            self._slot.engine.limit_steps(most)
            self._news.events.append(restart_events.steps_recover(most))

    @property
    def _silent_s(self) -> float:
        if not self._slot.is_ready or not self._requests.num_in_engine:
            return 0.0
        return self._watch.silent_s(self._slot.engine.heard_at)

    def _on_death(self, error: EngineError) -> None:
        """The engine has died: its unfinished requests are computed by the next one."""
        was_ready = self._slot.is_ready
        num_lost = self._close_engine()
        if not self._is_draining:
            self._attribute(error) if was_ready else self._back_off(error)
        is_over = self._is_draining or self._policy.fatal is not None
        num_again = 0 if is_over else self._requests.num_in_engine
        is_smaller = error.cause == "memory" and self._backoff.is_reduced
        smaller = self._backoff.max_step_tokens if is_smaller else 0
        self._news.events.append(
            restart_events.died(error, num_again, num_lost, at_start=not was_ready, smaller=smaller)
        )
        self._requests.requeue()
        if self._is_draining:  # no engine follows
            self._drop_held(None)

    def _close_engine(self) -> int:
        """Close the engine; returns the number of tokens lost with it."""
        self._slot.close()
        num_lost = self._totals.close_engine(self._last.totals)
        self._last = replace(self._last, totals=EngineTotals())
        return num_lost

    def _back_off(self, error: EngineError) -> None:
        """An engine died before it was ready."""
        if error.cause == "memory" and self._backoff.halve(self._requests.most_samples):
            self._slot.limit_steps(self._backoff.max_step_tokens)
        self._policy.failed_to_start(error)

    def _attribute(self, error: EngineError) -> None:
        """Find the cause of a death at work: steps too large for memory, or else a request."""
        self._policy.died(error)
        if self._policy.fatal is not None:
            return
        if error.cause == "memory" and self._backoff.halve(self._requests.most_samples):
            return
        culprit = self._bisection.died(self._requests.ids_in_engine)
        if culprit is None:
            return
        if self._quarantine.is_full:
            self._policy.fatal = error
            return
        request = self._requests.pop(culprit)
        self._readers.add([request])
        self._quarantine.add(restart_events.given_up(request, error))

    def _to_run_update(self, update: EngineUpdate) -> EngineUpdate:
        """Turn an engine's update into one of the whole run."""
        self._last = _without_news(update)
        for result in update.results:
            self._totals.count(result)
        self._remove(each.request_id for each in update.results)
        self._remove(each.request_id for each in update.failures)
        self._remove((*update.expired, *update.given_back))
        if update.results:
            self._policy.made_progress()
        blamed = self._released(has_results=bool(update.results))
        news, self._news = self._news, EngineUpdate()
        is_ready, since_s = self._slot.is_ready, self._totals.since_s
        return replace(
            update,
            results=[replace(each, queue_s=each.queue_s + since_s) for each in update.results],
            failures=[*update.failures, *news.failures, *blamed],
            steps=[replace(each, at_s=each.at_s + since_s) for each in update.steps],
            totals=self._totals.of_run(update.totals),
            num_running=update.num_running if is_ready else 0,
            num_waiting=(update.num_waiting if is_ready else 0) + self._requests.num_held,
            num_deferred=update.num_deferred if is_ready else 0,
            blocks_total=update.blocks_total or self.info.engine.num_blocks,
            events=[*news.events, *map(restart_events.quarantined, blamed)],
            given_back=[*news.given_back, *update.given_back],
            condition=self._condition(),
        )

    def _released(self, *, has_results: bool) -> list[RequestFailure]:
        """The quarantined failures that may be reported now."""
        if has_results:
            return self._quarantine.release()
        if len(self._requests) or self._policy.fatal is not None:
            return []
        return self._quarantine.release_uncertain()

    def _condition(self) -> str:
        if not self._slot.is_ready and not self._is_draining:
            return "restarting"
        return "stalled" if self._watch.is_shown(self._silent_s) else ""

    def _remove(self, request_ids: Iterable[int]) -> None:
        """Remove requests that the engine finished or gave back."""
        for request_id in request_ids:
            self._readers.add([self._requests.pop(request_id)])
            self._bisection.remove(request_id)

    def _drop_held(self, request_ids: Collection[int] | None) -> list[Request]:
        """Give back held requests: those named, or all."""
        dropped = self._requests.drop_held(request_ids)
        for each in dropped:
            self._bisection.remove(each.request_id)
            self._news.given_back.append(each.request_id)
        return dropped


def _without_news(update: EngineUpdate) -> EngineUpdate:
    """The state alone."""
    return replace(update, results=[], failures=[], steps=[], events=[], expired=[], given_back=[])
