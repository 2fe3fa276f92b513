"""The loop of a run: feed the engine and handle its results until all have ended or it stops."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from thothy_batch.records import EngineEvent, EngineTotals, EngineUpdate
from thothy_batch.runner.loop.cancellation import Action, Cancellations, decide
from thothy_batch.runner.loop.engine_feed import EngineFeed
from thothy_batch.runner.loop.result_handler import ResultHandler
from thothy_batch.runner.loop.result_writer import ResultWriter
from thothy_batch.runner.monitoring.event_log import EventLog
from thothy_batch.runner.session.stop_conditions import StopConditions
from thothy_batch.runner.work.pending_request import PendingRequest
from thothy_batch.testing import faults

_POLL_S = 0.25


@dataclass(slots=True)
class RunLoop:
    """The parts of the loop. `report` is called after every poll: ticks, status, display."""

    feed: EngineFeed
    results: ResultHandler
    cancellations: Cancellations
    writer: ResultWriter
    stop_conditions: StopConditions
    grace_s: float
    report: Callable[[EngineUpdate, bool], None]
    event_log: EventLog
    note: Callable[[str], None]
    totals: EngineTotals = field(default_factory=EngineTotals)
    stop_reason: str = ""

    def run(self) -> None:
        """Run until every request has ended, or until a stop condition is met and the grace is
        over."""
        while not self.feed.is_empty:
            self.stop_reason = self.stop_conditions.reason
            if self.stop_reason:
                self._drain()
                return
            self._submit()
            self._poll()

    def close(self) -> None:
        """Close the engine."""
        self.feed.engine.close()

    def _submit(self) -> None:
        """Fill the engine's queue with the next requests that are still wanted."""
        room, counts = self.feed.room, self.writer.counts
        batch: list[PendingRequest] = []
        while self.feed.pending and len(batch) < room:
            pending = self.feed.pending.popleft()
            decision = decide(pending, lambda entry: counts.job_of(entry).stopped)
            self.cancellations.apply(pending, decision)
            if decision.action is Action.SUBMIT:
                batch.append(pending)
        end = self.stop_conditions.next_end
        self.feed.submit(batch, None if end is None else end[0])

    def _poll(self) -> EngineUpdate:
        update = self.feed.poll(_POLL_S)
        faults.at("run.polled")
        for result in update.results:
            self.results.handle_result(result, may_retry=not self.stop_reason)
        for failure in update.failures:
            self.results.handle_failure(failure)
        for request_id in update.expired:
            pending = self.feed.in_engine.pop(request_id)
            self.cancellations.expire(pending, self.stop_conditions.next_end)
        for step in update.steps:
            row = {name: getattr(step, name) for name in step.__slots__}
            self.writer.store.add("engine_steps", row)
        for event in update.events:
            self._record_event(event)
        if update.totals.num_steps:
            self.totals = update.totals
        self.report(self.feed.last_update, bool(self.stop_reason))
        return update

    def _record_event(self, event: EngineEvent) -> None:
        row = {name: getattr(event, name) for name in event.__slots__}
        self.writer.store.add("engine_events", row)
        self.event_log.write(**row)
        self.note(event.message)
        self.writer.metrics.num_restarts += event.event == "engine_died"

    def _drain(self) -> None:
        """Let running requests finish, for as long as the grace lasts."""
        self.feed.engine.stop_admitting()
        self.feed.engine.give_back()
        end = time.monotonic() + self.grace_s
        while self.feed.in_engine and time.monotonic() < end and not self.stop_conditions.at_once:
            update = self._poll()
            if update.blocks_total and not update.num_running and not update.num_waiting:
                return
