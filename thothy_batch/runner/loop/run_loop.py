"""The loop of a night: requests to the engine, answers to the ledger, until done or stopped."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from thothy_batch.engine.protocol import EngineClient
from thothy_batch.kinds import evaluate
from thothy_batch.plan import OutputEstimates
from thothy_batch.records import (
    EngineEvent,
    EngineTotals,
    EngineUpdate,
    Request,
    RequestFailure,
    RequestResult,
)
from thothy_batch.runner.entries.entry import Entry
from thothy_batch.runner.entries.prepare import draft_of
from thothy_batch.runner.entries.rendering import Render
from thothy_batch.runner.loop.result_writer import ResultWriter
from thothy_batch.runner.monitoring.event_log import EventLog
from thothy_batch.runner.monitoring.progress import Forecast
from thothy_batch.runner.session.stop_conditions import Stopping
from thothy_batch.runner.work.assignment import PendingRequest
from thothy_batch.runner.work.retry_policy import Attempt, RetryPolicy
from thothy_batch.runner.work.roofline_receipt import RooflineReceipt
from thothy_batch.runner.work.stages import pass_to_next_stage
from thothy_batch.testing import faults

JOB_STOPPED = "job_stopped"
DEADLINE = "deadline"
_POLL_S = 0.25
_WINDOW_OF_MAX_SEQS = 4
_SMALLEST_WINDOW = 64


@dataclass(slots=True)
class RunLoop:
    """The state of the loop. `pulse` is called after every poll: ticks, status, display."""

    engine: EngineClient
    ledger: ResultWriter
    stopping: Stopping
    render: Render
    grace_s: float
    pulse: Callable[[EngineUpdate, bool], None]
    note: Callable[[str], None]
    forecast: Forecast
    estimates: OutputEstimates
    receipt: RooflineReceipt
    log: EventLog
    attempts: RetryPolicy
    pending: deque[PendingRequest] = field(default_factory=deque)  # in the order of submission
    in_engine: dict[int, PendingRequest] = field(default_factory=dict)
    totals: EngineTotals = field(default_factory=EngineTotals)
    stop_reason: str = ""
    num_late: int = 0  # entries that were not started for want of time
    late_reason: str = ""  # deadline | time_budget: entries were left, they would have been late
    repeated_prompt_tokens: int = 0  # computed again for further attempts
    _last: EngineUpdate = field(default_factory=EngineUpdate)
    _answer_times: deque[float] = field(default_factory=deque)

    def run(self) -> None:
        """Until every request is answered, or it is time to stop and the grace is over."""
        while self.pending or self.in_engine:
            self.stop_reason = self.stopping.reason
            if self.stop_reason:
                self._drain()
                return
            self._submit()
            self._poll()

    def _submit(self) -> None:
        """Fills the engine's queue: enough to choose from, few enough to stop at any time."""
        room = self._window() - len(self.in_engine)
        batch: list[PendingRequest] = []
        while self.pending and len(batch) < room:
            work = self.pending.popleft()
            if self._still_wanted(work):
                self._expect(work)
                batch.append(work)
        if batch:
            faults.at("run.submit")
            self.in_engine |= {work.request.request_id: work for work in batch}
            self.engine.submit([work.request for work in batch])

    def _expect(self, work: PendingRequest) -> None:
        """Tells the engine what is known by now of how long the job's outputs are, and until when
        they have to be there."""
        request, job = work.request, work.primary.job
        expected = self.estimates.expected(job.name, request.sampling)
        num_later = len(job.kind.stages) - 1 - work.stage
        later = num_later * request.sampling.max_tokens
        end = work.wanted_until(self.stopping.next_end)
        known = (request.expected_tokens, request.ends_at, request.later_tokens)
        if known != (expected, end, later):
            work.request = replace(
                request, expected_tokens=expected, ends_at=end, later_tokens=later
            )

    def _window(self) -> int:
        max_seqs = self.engine.info.engine.max_seqs
        window = max(_SMALLEST_WINDOW, _WINDOW_OF_MAX_SEQS * max_seqs) + len(self._answer_times)
        return window + min(self._last.num_deferred, _WINDOW_OF_MAX_SEQS * window)

    def _still_wanted(self, work: PendingRequest) -> bool:
        """Drops the entries of jobs that are stopped, or over; False when none is left."""
        reasons = {entry: self._why_dropped(entry) for entry in work.entries}
        dropped = [entry for entry, reason in reasons.items() if reason]
        is_over = len(dropped) == len(work.entries)
        if dropped and not is_over and work.best is not None and not work.is_rejected:
            return True  # the others wait for a better answer, which then is everybody's
        # What is no good yet and was not stopped is the next night's to try again.
        is_late = work.is_rejected and DEADLINE in reasons.values()
        if is_over and work.best is not None and not is_late:
            self.forecast.drop(work.request)
            self.finalize(work)
            return False
        for entry in dropped:
            self.num_late += reasons[entry] == DEADLINE
            self.ledger.not_run(entry, reasons[entry])
        if dropped:
            work.entries = [entry for entry in work.entries if not reasons[entry]]
        if not work.entries:
            self.forecast.drop(work.request)
            self.engine.cancel([work.request])
        return bool(work.entries)

    def _why_dropped(self, entry: Entry) -> str:
        """The reason for which an entry is not computed any more, if there is one."""
        if self.ledger.account.job_of(entry).stopped:
            return JOB_STOPPED
        if entry.job.is_over:
            self.late_reason = DEADLINE
            return DEADLINE
        return ""

    def _poll(self) -> EngineUpdate:
        update = self.engine.poll(_POLL_S)
        faults.at("run.polled")
        for result in update.results:
            self._take(result)
        for failure in update.failures:
            self._refuse(failure)
        for request_id in update.expired:
            self._leave(self.in_engine.pop(request_id))
        for step in update.steps:
            self.ledger.store.add(
                "engine_steps", {name: getattr(step, name) for name in step.__slots__}
            )
        for event in update.events:
            self._happened(event)
        if update.totals.num_steps:
            self.totals = update.totals
        # A poll that timed out has nothing to say of the engine's state.
        if update.blocks_total:
            self._last = replace(update, results=[], failures=[], steps=[], events=[])
        self.pulse(self._last, bool(self.stop_reason))
        return update

    def _happened(self, event: EngineEvent) -> None:
        self.ledger.store.add(
            "engine_events", {name: getattr(event, name) for name in event.__slots__}
        )
        self.log.write(**{name: getattr(event, name) for name in event.__slots__})
        self.note(event.message)
        self.ledger.metrics.num_restarts += event.event == "engine_died"

    def _take(self, result: RequestResult) -> None:
        now = time.monotonic()
        self._answer_times.append(now)
        while now - self._answer_times[0] > 1.0:
            self._answer_times.popleft()
        work = self.in_engine.pop(result.request_id)
        work.cost.add(result)
        self.ledger.metrics.observe_queue_delay(result.queue_s)
        primary = work.primary
        if len(primary.job.kind.stages) <= 1 and not work.num_tried:
            for completion in result.completions:
                self.estimates.observe(primary.job.name, len(completion.token_ids))
        if work.stage + 1 < len(primary.job.kind.stages):
            self.receipt.add(work.request.prompt_token_ids, result)
            self._next_stage(work, result)
            return
        self.forecast.finish(work.request, result.output_tokens)
        output = evaluate(
            primary.job.kind,
            result.completions,
            prompt_token_ids=work.request.prompt_token_ids,
            variables=primary.variables,
            ignore_eos=primary.sampling.ignore_eos,
        )
        tried = Attempt(work.request, work.attempt, result, output)
        work.take(tried)
        if work.num_tried == 1:
            self.ledger.count_first(work)
        else:
            self.repeated_prompt_tokens += result.prompt_tokens - result.cached_prompt_tokens
        again = self.attempts.next_request(
            tried,
            primary.sampling.seed,
            num_tried=work.num_tried,
            retry_temperature=primary.job.kind.retry_temperature,
        )
        if again is not None and not self.stop_reason:
            self._try_again(work, again)
        elif again is None or not work.is_rejected:
            self.finalize(work)  # else the next night tries it again
        self._judge(primary)

    def _try_again(self, work: PendingRequest, request: Request) -> None:
        """Behind everything else: when the night has nothing better to do. Nothing is stored yet:
        after a kill both are computed again, and the end is that of an undisturbed night."""
        work.attempt += 1
        work.request = request
        self.forecast.add(request)
        self.pending.append(work)

    def finalize(self, work: PendingRequest) -> None:
        """The best answer that a request has is the one that counts."""
        assert work.best is not None
        self.receipt.add(work.request.prompt_token_ids, work.best.result)
        self.ledger.answer(work)
        work.best = None
        work.release_inputs()

    def _next_stage(self, work: PendingRequest, result: RequestResult) -> None:
        """The request of the following stage goes before everything that has not begun."""
        entry = work.primary
        if failure := pass_to_next_stage(work, result):
            self._reject(work, failure)
            return
        (rendered,) = self.render([draft_of(entry, work.stage)])
        if rendered.code is not None:
            self._reject(
                work, RequestFailure(work.request.request_id, rendered.code, rendered.message)
            )
            return
        for each in work.entries:
            each.flags = rendered.flags
        self.forecast.finish(work.request, result.output_tokens)
        work.request = replace(
            work.request,
            prompt_token_ids=rendered.prompt_token_ids,
            num_samples=entry.samples_of_stage(work.stage),
            prefixes=None,  # those of the first stage's prompt
        )
        self.forecast.add(work.request)
        self.pending.appendleft(work)

    def _refuse(self, failure: RequestFailure) -> None:
        self._reject(self.in_engine.pop(failure.request_id), failure)

    def _leave(self, work: PendingRequest) -> None:
        """It was not started: it could not have been answered in time."""
        self.forecast.drop(work.request)
        end = self.stopping.next_end
        self.late_reason = end[1] if end and work.request.ends_at == end[0] else DEADLINE
        if work.best is not None and not work.is_rejected:
            self.finalize(work)
            return
        self.num_late += len(work.entries)
        for entry in work.entries:
            self.ledger.not_run(entry, DEADLINE)

    def _reject(self, work: PendingRequest, failure: RequestFailure) -> None:
        self.forecast.drop(work.request)
        if work.best is not None:  # an answer to an earlier attempt
            self.finalize(work)
            return
        self.ledger.reject(work, failure)
        work.release_inputs()
        self._judge(work.primary)

    def _judge(self, entry: Entry) -> None:
        count = self.ledger.account.job_of(entry)
        if count.stopped or not count.too_many_failed:
            return
        count.stopped = True
        message = (
            f"job {count.name!r} stops: {count.num_rejected} of {count.num_answered} answers were "
            f"no good (max_failed_pct {count.max_failed_pct:g}); the other jobs go on"
        )
        self.log.write("job_stopped", job=count.name, message=message)
        self.note(message)

    def _drain(self) -> None:
        """Lets what runs come to its end, for as long as the grace lasts."""
        self.engine.stop_admitting()
        self.engine.give_back()
        end = time.monotonic() + self.grace_s
        while self.in_engine and time.monotonic() < end and not self.stopping.at_once:
            update = self._poll()
            if update.blocks_total and not update.num_running and not update.num_waiting:
                return
