"""The engine itself: requests in, steps, results out. One thread; knows no process and no pipe."""

import time
from collections import deque
from collections.abc import Callable, Collection, Iterable
from functools import partial

from thothy_batch.engine.core.config import EngineConfig
from thothy_batch.engine.core.limits import Limits, why_invalid, why_unfit
from thothy_batch.engine.core.sequence import Sequence, SequenceStatus
from thothy_batch.engine.cost.cost_model import CostModel
from thothy_batch.engine.execution.batch import BatchBuilder
from thothy_batch.engine.execution.launcher import InFlight, Launcher
from thothy_batch.engine.execution.state_slots import StateSlots
from thothy_batch.engine.output.engine_stats import EngineStats, PoolState
from thothy_batch.engine.output.stop_checker import StopRules
from thothy_batch.engine.scheduling.deadlines import DeadlineGate
from thothy_batch.engine.scheduling.scheduled_batch import ScheduledBatch
from thothy_batch.engine.scheduling.scheduler import Scheduler
from thothy_batch.engine.speculative.policy import Speculation, with_drafts
from thothy_batch.records import (
    EngineTotals,
    EngineUpdate,
    FailureCode,
    Request,
    RequestFailure,
    RequestResult,
)


class LLMEngine:
    """Scheduler, batch builder and launcher, one launch after another.

    A step counts when it is launched; its tokens are read up to `launcher.lookahead` launches
    later. Whoever then turns out to have ended has drawn some tokens too many: they are dropped.
    """

    def __init__(
        self,
        config: EngineConfig,
        launcher: Launcher,
        rules: StopRules,
        *,
        vocab_size: int,
        has_tokenizer: bool = True,
        speculation: Speculation | None = None,
        cost: CostModel | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config = config
        self._limits = Limits.of(config)
        self._launcher = launcher
        self._rules = rules
        self._why_invalid = partial(
            why_invalid,
            vocab_size=vocab_size,
            most_samples=launcher.max_samples,
            has_tokenizer=has_tokenizer,
        )
        self._clock = clock
        self._ready_at = clock()
        ahead = launcher.max_steps if launcher.keeps_state else 0
        self._times = DeadlineGate(clock, cost)
        can_start = self._may_start
        self._scheduler = Scheduler(
            config, self.drain_in_flight, grow_ahead=ahead, can_finish_in_time=can_start
        )
        self._too_late: list[int] = []
        self._slots = StateSlots() if launcher.keeps_state else None
        self._builder = BatchBuilder(config.layout, self._slots)
        # A launcher that keeps state knows a row's last token alone.
        self._speculation = None if launcher.keeps_state else speculation
        self._ledger = EngineStats()
        self._span: ScheduledBatch | None = None  # that has begun and goes on
        self._in_flight: deque[InFlight] = deque()
        self._num_unstarted = 0  # requests
        self._num_unfinished = 0  # requests, the unstarted ones among them
        self._unfinished_ids: set[int] = set()
        self._unadmitted: list[int] = []  # ids: queued when admission was stopped
        self._given_back: list[int] = []
        self._admits = True
        self._results: list[RequestResult] = []
        self._failures: list[RequestFailure] = []

    @property
    def has_work(self) -> bool:
        return self._num_unfinished > 0

    @property
    def has_news(self) -> bool:
        """Whether a result or failure waits to be taken."""
        return bool(self._results or self._failures or self._too_late or self._given_back)

    @property
    def totals(self) -> EngineTotals:
        return self._ledger.totals

    def submit(self, requests: Iterable[Request]) -> None:
        """Queue requests; those that can never run fail at once."""
        if not self._admits:
            self._given_back += [request.request_id for request in requests]
            return
        for request in requests:
            if message := self._why_invalid(request):
                self._fail(request, FailureCode.INVALID_INPUT, message)
                self._scheduler.cancel_planned(request)
                continue
            if message := why_unfit(request, self._limits):
                self._fail(request, FailureCode.PROMPT_TOO_LONG, message)
                self._scheduler.cancel_planned(request)
                continue
            self._scheduler.add(self._scheduler.sequence_of(request))
            self._unfinished_ids.add(request.request_id)
            self._num_unstarted += 1
            self._num_unfinished += 1
        self._span = None  # a newcomer may be admitted now

    def cancel(self, requests: Collection[Request]) -> None:
        """Give back those that are queued; pin nothing for those that were never submitted. Those
        that were started are finished."""
        ids = {request.request_id for request in requests}
        queued = self._drop_unstarted(lambda seq: seq.state.request.request_id in ids)
        queued += [request_id for request_id in self._unadmitted if request_id in ids]
        self._unadmitted = [each for each in self._unadmitted if each not in ids]
        self._given_back += queued
        known = self._unfinished_ids.union(queued)
        for request in requests:
            if request.request_id not in known:
                self._scheduler.cancel_planned(request)

    def step(self) -> None:
        """Launch the next steps and read the tokens of earlier ones. When the first step of a
        launch raises, nothing of it counts and it can be tried again; a later one, and what shows
        only as tokens are read, ends the engine."""
        is_idle = not self._scheduler.has_work
        if self._scheduler.num_deferred and (self._times.is_due() or is_idle):
            self._give_up(self._scheduler.requeue_deferred(self._times.is_over))
            self._span = None  # who came back may be admitted now
        if self._scheduler.has_work:
            self._launch()
        if is_idle and not self._scheduler.has_work:  # not even alone would they be in time
            self._give_up(self._scheduler.requeue_deferred(lambda seq: True))
        while len(self._in_flight) > self._num_ahead:
            self._harvest()

    def stop_admitting(self) -> None:
        """Start nothing more. Queued requests wait for `give_back`; those that are submitted from
        now on are given back."""
        self._admits = False
        self._unadmitted += self._drop_unstarted(lambda seq: True)
        self._scheduler.unpin_all()

    def give_back(self) -> None:
        """Give back the requests that were never started."""
        self._given_back += self._unadmitted + self._drop_unstarted(lambda seq: True)
        self._unadmitted = []

    def _drop_unstarted(self, is_dropped: Callable[[Sequence], bool]) -> list[int]:
        dropped = self._scheduler.drop_unstarted(is_dropped)
        ids = [seq.state.request.request_id for seq in dropped]
        self._unfinished_ids.difference_update(ids)
        self._num_unstarted -= len(ids)
        self._num_unfinished -= len(ids)
        # A finished sequence may have launches in flight that no later step would read.
        if ids and not self.has_work and not self.drain_in_flight():
            self._ledger.flush(self._pool_state(), self._now())
        return ids

    def limit_steps(self, max_step_tokens: int) -> None:
        """Steps have at most so many tokens from now on."""
        self._scheduler.limit_steps(max_step_tokens)

    def take_update(self) -> EngineUpdate:
        """What happened since the last call."""
        state = self._pool_state()
        update = EngineUpdate(
            results=self._results,
            failures=self._failures,
            steps=self._ledger.take_samples(),
            totals=self._ledger.totals,
            num_running=self._num_unfinished - self._num_unstarted,
            num_waiting=self._num_unstarted + len(self._unadmitted),
            blocks_used=state.blocks_used,
            blocks_total=state.blocks_total,
            expired=self._too_late,
            num_deferred=self._scheduler.num_deferred,
            given_back=self._given_back,
        )
        self._results, self._failures, self._too_late, self._given_back = [], [], [], []
        return update

    def check_integrity(self) -> None:
        self._scheduler.check_integrity()

    def _launch(self) -> None:
        """One launch of the current span, or the first of a new one."""
        span, self._span = self._span, None
        if span is None:
            span = self._scheduler.schedule()
            self._forget(span.preempted)
            if span.is_empty:
                return  # all who were left turned out to have ended
        started_at = self._now()
        if self._speculation is not None:
            most = self._scheduler.max_step_tokens
            span = with_drafts(span, self._speculation, self.config, most)
        num_steps = self._num_steps(span)
        try:
            if not span.num_done:
                self._launcher.begin(self._builder.build(span))
            drawn = self._launcher.launch(num_steps)
        except BaseException:
            self._abandon(span)
            raise
        rows = span.decoding.rows
        outcome = self._scheduler.advance(span, num_steps, started_at)
        self._num_unstarted -= outcome.num_started
        launched = InFlight([*rows, *outcome.joined], drawn, outcome, started_at, span)
        self._in_flight.append(launched)
        if not span.is_over:
            self._span = span
            return
        ended = [seq for seq in launched.rows if seq.num_tokens >= seq.max_len]
        for seq in ended:
            if idle := seq.num_tokens - seq.max_len:
                launched.idle_steps[seq] = idle
        outcome.forget(sum(launched.idle_steps.values()))
        self._retire(ended)

    def _num_steps(self, span: ScheduledBatch) -> int:
        """Steps of the next launch. On a device they go on when somebody ends, while others do
        not: a visit of the host takes longer than a row that is empty for some steps."""
        left = span.num_steps - span.num_done
        most = self._launcher.max_steps
        if self._launcher.keeps_state and left < most and not span.parts:
            longest = max(seq.max_len - seq.num_tokens for seq in span.decoding)
            left = max(left, min(span.max_steps - span.num_done, longest))
        return min(left, most)

    @property
    def _num_ahead(self) -> int:
        """Launches that may stay in flight: none where no further one follows."""
        return self._launcher.lookahead if self._scheduler.has_work else 0

    def _harvest(self) -> None:
        """Read the tokens of the oldest launch."""
        launched = self._in_flight.popleft()
        finished = launched.collect(self._rules.finish_reason)
        now = self._now()
        if launched.span.drafts:
            self._scheduler.accept_drafted(launched.span, launched.outcome)
        if self._speculation is not None and not launched.span.parts:
            num_tokens = len(launched.rows) + launched.span.num_drafted
            self._speculation.learn(num_tokens, now - launched.started_at)
        running = [seq for seq in finished if seq.status is SequenceStatus.RUNNING]
        if running:
            self._retire(running)
            self._span = None
        outcome = launched.outcome
        seconds = self._ledger.add(outcome, self._pool_state(), launched.started_at, now)
        self._times.learn(launched.span, outcome, len(launched.rows), seconds)
        for seq in finished:
            self._complete(seq, now)
        if not self.has_work:
            self._ledger.flush(self._pool_state(), now)

    def drain_in_flight(self) -> bool:
        """Read all tokens that are under way; False: there are none."""
        if not self._in_flight:
            return False
        while self._in_flight:
            self._harvest()
        return True

    def _retire(self, seqs: list[Sequence]) -> None:
        """Sequences need no further step."""
        self._scheduler.finish(seqs)
        self._forget(seqs)

    def _forget(self, seqs: Iterable[Sequence]) -> None:
        if self._slots is not None:
            self._slots.free(seqs)

    def _abandon(self, span: ScheduledBatch) -> None:
        """Take back what a failed launch would have begun."""
        if self._slots is not None and not span.num_done:
            for part in span.parts:
                self._slots.free_samples(part.seq)
        self._scheduler.rollback(span)

    def _complete(self, seq: Sequence, now: float) -> None:
        """All tokens of a sample are known; the last sample's makes the result."""
        state = seq.state
        state.finished_at = now
        if self._speculation is not None:
            self._speculation.forget([seq])
        state.output_tokens += len(seq.output_ids)
        num_drawn = min(seq.num_tokens, seq.max_len) - seq.prompt_len
        state.wasted_tokens += num_drawn - len(seq.output_ids)
        state.num_unfinished -= 1
        state.completions[seq.sample] = self._rules.completion(seq)
        if state.num_unfinished:
            return
        self._num_unfinished -= 1
        self._unfinished_ids.discard(state.request.request_id)
        self._results.append(state.result())

    def _may_start(self, seq: Sequence, num_cached: int) -> bool:
        return self._times.can_finish_in_time(
            seq, num_cached, alone=not self._scheduler.num_running
        )

    def _give_up(self, seqs: list[Sequence]) -> None:
        """They were not started, and cannot be answered in time any more."""
        ids = [seq.state.request.request_id for seq in seqs]
        self._too_late += ids
        self._unfinished_ids.difference_update(ids)
        self._num_unstarted -= len(seqs)
        self._num_unfinished -= len(seqs)

    def _fail(self, request: Request, code: FailureCode, message: str) -> None:
        self._failures.append(RequestFailure(request.request_id, code, message))

    def _pool_state(self) -> PoolState:
        return PoolState(
            self._scheduler.num_running,
            self._scheduler.num_waiting,
            self._scheduler.blocks_used,
            self.config.num_blocks,
        )

    def _now(self) -> float:
        return self._clock() - self._ready_at
