"""LLM engine: requests in, steps, results out. Single-threaded; knows no process and no pipe."""

import time
from collections import deque
from collections.abc import Callable, Collection, Iterable

from thothy_batch.engine.core.config import EngineConfig
from thothy_batch.engine.core.sequence import Sequence, SequenceStatus
from thothy_batch.engine.cost.cost_model import CostModel
from thothy_batch.engine.execution.batch_executor import BatchExecutor
from thothy_batch.engine.execution.in_flight import InFlight, Launch
from thothy_batch.engine.execution.launcher import Launcher
from thothy_batch.engine.output.engine_stats import EngineStats, PoolState
from thothy_batch.engine.output.result_collector import ResultCollector
from thothy_batch.engine.output.stop_checker import StopChecker
from thothy_batch.engine.scheduling.deadline_gate import DeadlineGate
from thothy_batch.engine.scheduling.request_intake import RequestIntake
from thothy_batch.engine.scheduling.scheduled_batch import ScheduledBatch
from thothy_batch.engine.scheduling.scheduler import Scheduler
from thothy_batch.engine.speculative.policy import Speculation, add_drafts
from thothy_batch.records import EngineTotals, EngineUpdate, Request


class LLMEngine:
    """Schedules batches, launches their steps, and turns the sampled tokens into results.

    A step is committed when it is launched; its tokens are read up to `launcher.lookahead` launches
    later. Tokens sampled past a sequence's end are discarded.
    """

    def __init__(
        self,
        config: EngineConfig,
        launcher: Launcher,
        stop_checker: StopChecker,
        *,
        vocab_size: int,
        has_tokenizer: bool = True,
        speculation: Speculation | None = None,
        cost: CostModel | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config = config
        self._clock = clock
        self._ready_at = clock()
        self._gate = DeadlineGate(clock, cost)
        grow_ahead = launcher.max_steps if launcher.keeps_state else 0
        self._scheduler = Scheduler(config, grow_ahead=grow_ahead, gate=self._gate)
        self._intake = RequestIntake(
            config,
            self._scheduler,
            vocab_size=vocab_size,
            max_samples=launcher.max_samples,
            has_tokenizer=has_tokenizer,
        )
        self._executor = BatchExecutor(config.layout, launcher)
        # A launcher that keeps state holds only a sequence's last token, not a draft.
        self._speculation = None if launcher.keeps_state else speculation
        self._stop_checker = stop_checker
        self._results = ResultCollector(stop_checker)
        self._stats = EngineStats()
        self._batch: ScheduledBatch | None = None  # started, with steps left
        self._in_flight: deque[InFlight] = deque()

    @property
    def has_work(self) -> bool:
        return self._intake.num_unfinished > 0

    @property
    def has_update(self) -> bool:
        """True if the outcome of a request is ready for `pop_update`."""
        return len(self._results) > 0

    @property
    def totals(self) -> EngineTotals:
        return self._stats.totals

    def submit(self, requests: Iterable[Request]) -> None:
        """Queue requests; those that can never run fail at once."""
        if not self._intake.is_open:
            self._results.give_back(request.request_id for request in requests)
            return
        self._results.fail(self._intake.submit(requests))
        self._batch = None  # a new request may be admitted now

    def cancel(self, requests: Collection[Request]) -> None:
        """Give back queued requests, and unpin prefixes for those that were never submitted.

        Started requests continue.
        """
        self._give_back(self._intake.cancel(requests))

    def step(self) -> None:
        """Schedule a batch, launch it, commit it, and read the tokens of earlier launches.

        If the first step of a launch raises, nothing of it counts and it can be tried again. An
        error in a later step, or one that shows only as tokens are read, ends the engine.
        """
        was_idle = not self._scheduler.has_work
        self._requeue_deferred(is_idle=was_idle)
        if self._scheduler.has_work:
            batch = self._schedule()
            if not batch.is_empty:
                self._commit(self._run(batch))
        if was_idle and not self._scheduler.has_work:
            # Deferred requests would miss their deadlines even alone.
            self._expire(self._scheduler.drop_deferred())
        while len(self._in_flight) > self._max_in_flight:
            self._read_oldest()

    def stop_admitting(self) -> None:
        """Start no further request.

        Queued requests wait for `give_back`; those submitted later are given back at once.
        """
        self._intake.stop_admitting()
        self._give_back([])

    def give_back(self) -> None:
        """Give back the requests that were never started."""
        self._give_back(self._intake.give_back())

    def limit_steps(self, max_step_tokens: int) -> None:
        """Limit the tokens of later steps."""
        self._scheduler.limit_steps(max_step_tokens)

    def pop_update(self) -> EngineUpdate:
        """Return everything that happened since the last call."""
        state = self._pool_state()
        update = EngineUpdate(
            steps=self._stats.pop_samples(),
            totals=self._stats.totals,
            num_running=self._intake.num_running,
            num_waiting=self._intake.num_waiting,
            blocks_used=state.blocks_used,
            blocks_total=state.blocks_total,
            num_deferred=self._scheduler.num_deferred,
        )
        self._results.pop_into(update)
        return update

    def check_integrity(self) -> None:
        self._scheduler.check_integrity()

    def _schedule(self) -> ScheduledBatch:
        """Return the batch that has steps left, or decide on a new one.

        Preemption needs every token: if blocks run short, those in flight are read first.
        """
        if self._batch is not None:
            return self._batch
        batch = self._scheduler.schedule(tokens_known=not self._in_flight)
        while batch.is_short:
            self._drain()
            batch = self._scheduler.schedule()
        self._executor.release(batch.preempted)
        return batch

    def _run(self, batch: ScheduledBatch) -> Launch:
        """Launch the batch's next steps: forward pass and sampling."""
        self._batch = None
        started_at = self._now()
        if self._speculation is not None:
            max_tokens = self._scheduler.max_step_tokens
            batch = add_drafts(batch, self._speculation, self.config, max_tokens)
        num_steps = self._executor.num_steps(batch)
        try:
            drawn = self._executor.launch(batch, num_steps)
        except BaseException:
            self._executor.rollback(batch)
            self._scheduler.rollback(batch)
            raise
        return Launch(batch, num_steps, drawn, started_at)

    def _commit(self, launch: Launch) -> None:
        """Count the launched steps; finish sequences that reached their length limit."""
        batch, decoding = launch.batch, launch.batch.decoding.seqs
        stats = self._scheduler.commit(batch, launch.num_steps, launch.started_at)
        self._intake.count_started(stats.num_started)
        in_flight = InFlight(launch, [*decoding, *stats.joined], stats)
        self._in_flight.append(in_flight)
        if batch.is_over:
            self._finish(in_flight.mask_ended())
        else:
            self._batch = batch

    @property
    def _max_in_flight(self) -> int:
        """Launches that may stay in flight: none if no further one follows."""
        return self._executor.lookahead if self._scheduler.has_work else 0

    def _drain(self) -> None:
        """Read the tokens of all launches in flight."""
        while self._in_flight:
            self._read_oldest()

    def _read_oldest(self) -> None:
        """Read the tokens of the oldest launch, and collect the sequences that finished."""
        in_flight = self._in_flight.popleft()
        launch, stats = in_flight.launch, in_flight.stats
        finished = in_flight.read(self._stop_checker.finish_reason)
        now = self._now()
        if launch.batch.drafts:
            self._scheduler.accept_drafted(launch.batch, stats)
        if self._speculation is not None and not launch.batch.chunks:
            num_tokens = len(in_flight.seqs) + launch.batch.num_drafted
            self._speculation.learn(num_tokens, now - launch.started_at)
        stopped = [seq for seq in finished if seq.status is SequenceStatus.RUNNING]
        if stopped:
            self._finish(stopped)
            self._batch = None
        seconds = self._stats.add(stats, self._pool_state(), launch.started_at, now)
        self._gate.learn(launch.batch, stats, len(in_flight.seqs), seconds)
        for seq in finished:
            self._complete(seq, now)
        if not self.has_work:
            self._stats.flush(self._pool_state(), now)

    def _finish(self, seqs: list[Sequence]) -> None:
        """Free the blocks and state slots of sequences that need no further step."""
        self._scheduler.finish(seqs)
        self._executor.release(seqs)

    def _complete(self, seq: Sequence, now: float) -> None:
        """Collect a finished sequence; all of its tokens are known."""
        if self._speculation is not None:
            self._speculation.forget([seq])
        if self._results.complete(seq, now):
            self._intake.count_complete(seq.state.request.request_id)

    def _requeue_deferred(self, *, is_idle: bool) -> None:
        """Reconsider deferred requests about once a second, or if nothing else can run."""
        if self._scheduler.num_deferred and (self._gate.is_recheck_due() or is_idle):
            self._expire(self._scheduler.requeue_deferred())
            self._batch = None  # a requeued request may be admitted now

    def _expire(self, seqs: list[Sequence]) -> None:
        self._results.expire(self._intake.count_dropped(seqs))

    def _give_back(self, request_ids: list[int]) -> None:
        self._results.give_back(request_ids)
        if not self.has_work:
            self._drain()  # sequences that ended may still have launches in flight
            self._stats.flush(self._pool_state(), self._now())

    def _pool_state(self) -> PoolState:
        return PoolState(
            self._scheduler.num_running,
            self._scheduler.num_waiting,
            self._scheduler.blocks_used,
            self.config.num_blocks,
        )

    def _now(self) -> float:
        return self._clock() - self._ready_at
