"""The engine itself: requests in, steps, results out. One thread; knows no process and no pipe."""

import time
from collections.abc import Callable, Iterable
from typing import Protocol

from thothy_batch.engine.batch import Batch, BatchBuilder, Int64Array
from thothy_batch.engine.config import EngineConfig
from thothy_batch.engine.fit import Limits, why_unfit
from thothy_batch.engine.ledger import Ledger, PoolState
from thothy_batch.engine.scheduler import Scheduler
from thothy_batch.engine.sequence import Sequence
from thothy_batch.engine.span import Span
from thothy_batch.engine.stop_rules import StopRules
from thothy_batch.records import (
    EngineTotals,
    EngineUpdate,
    FailureCode,
    Request,
    RequestFailure,
    RequestResult,
)


class Runner(Protocol):
    """Computes a batch: forward pass and sampling."""

    def run(self, batch: Batch) -> Int64Array:
        """Write the batch's KV, draw one token per row of logits: int64 [R]."""
        ...


class LLMEngine:
    """Scheduler, batch builder and model runner, one step after another."""

    def __init__(
        self,
        config: EngineConfig,
        runner: Runner,
        rules: StopRules,
        *,
        vocab_size: int,
        has_tokenizer: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config = config
        self._limits = Limits.of(config)
        self._runner = runner
        self._rules = rules
        self._vocab_size = vocab_size
        self._has_tokenizer = has_tokenizer
        self._clock = clock
        self._ready_at = clock()
        self._scheduler = Scheduler(config, rules.finish_reason)
        self._builder = BatchBuilder(config.layout)
        self._ledger = Ledger()
        self._span: tuple[Span, Batch] | None = None
        self._num_unstarted = 0  # requests
        self._num_unfinished = 0  # requests, the unstarted ones among them
        self._admits = True
        self._results: list[RequestResult] = []
        self._failures: list[RequestFailure] = []

    @property
    def has_work(self) -> bool:
        return self._num_unfinished > 0

    @property
    def has_news(self) -> bool:
        """Whether a result or failure waits to be taken."""
        return bool(self._results or self._failures)

    @property
    def totals(self) -> EngineTotals:
        return self._ledger.totals

    def submit(self, requests: Iterable[Request]) -> None:
        """Queue requests; those that can never run fail at once."""
        if not self._admits:
            return
        for request in requests:
            if message := self._invalid(request):
                self._fail(request, FailureCode.INVALID_INPUT, message)
                self._scheduler.withdraw(request)
                continue
            if message := why_unfit(request, self._limits):
                self._fail(request, FailureCode.PROMPT_TOO_LONG, message)
                self._scheduler.withdraw(request)
                continue
            self._scheduler.add(self._scheduler.sequence_of(request))
            self._num_unstarted += 1
            self._num_unfinished += 1
        self._span = None  # a newcomer may be admitted now

    def withdraw(self, requests: Iterable[Request]) -> None:
        """Planned requests will not come: nothing is kept for them."""
        for request in requests:
            self._scheduler.withdraw(request)

    def step(self) -> None:
        """Compute one step. When it raises, nothing of it counts and it can be tried again."""
        span, batch = self._next_batch()
        started_at = self._now()
        try:
            token_ids = self._runner.run(batch)
        except BaseException:
            self._scheduler.abandon(span)
            raise
        now = self._now()
        outcome = self._scheduler.commit(
            span, token_ids.tolist(), started_at=started_at, finished_at=now
        )
        self._num_unstarted -= outcome.num_started
        self._ledger.add(outcome, self._pool_state(), started_at, now)
        for seq in outcome.finished:
            self._harvest(seq)
        if not span.is_over:
            self._builder.advance(batch, token_ids)
            self._span = span, batch
        if not self.has_work:
            self._ledger.flush(self._pool_state(), now)

    def stop_admitting(self) -> None:
        """Forget the requests that were never started, and all that are submitted later."""
        self._admits = False
        num_dropped = self._scheduler.drop_unstarted()
        self._num_unstarted -= num_dropped
        self._num_unfinished -= num_dropped
        if not self.has_work:
            self._ledger.flush(self._pool_state(), self._now())

    def take_update(self) -> EngineUpdate:
        """What happened since the last call."""
        state = self._pool_state()
        update = EngineUpdate(
            results=self._results,
            failures=self._failures,
            steps=self._ledger.take_samples(),
            totals=self._ledger.totals,
            num_running=self._num_unfinished - self._num_unstarted,
            num_waiting=self._num_unstarted,
            blocks_used=state.blocks_used,
            blocks_total=state.blocks_total,
        )
        self._results, self._failures = [], []
        return update

    def check_integrity(self) -> None:
        self._scheduler.check_integrity()

    def _next_batch(self) -> tuple[Span, Batch]:
        """The rest of the current span, or a new one. Holds none while the step is computed."""
        current, self._span = self._span, None
        if current is None:
            span = self._scheduler.schedule()
            current = span, self._builder.build(span)
        return current

    def _harvest(self, seq: Sequence) -> None:
        state = seq.state
        state.num_unfinished -= 1
        state.completions[seq.sample] = self._rules.completion(seq)
        if state.num_unfinished:
            return
        self._num_unfinished -= 1
        completions = tuple(c for c in state.completions if c is not None)
        assert len(completions) == state.request.num_samples
        started_at = state.started_at or 0.0
        self._results.append(
            RequestResult(
                request_id=state.request.request_id,
                completions=completions,
                prompt_tokens=seq.prompt_len,
                cached_prompt_tokens=state.cached_prompt_tokens,
                output_tokens=state.output_tokens,
                wasted_tokens=state.wasted_tokens,
                queue_s=started_at,
                engine_s=state.finished_at - started_at,
            )
        )

    def _fail(self, request: Request, code: FailureCode, message: str) -> None:
        self._failures.append(RequestFailure(request.request_id, code, message))

    def _invalid(self, request: Request) -> str:
        sampling = request.sampling
        if not len(request.prompt_token_ids):
            return "the prompt is empty"
        if sampling.max_tokens < 1 or request.num_samples < 1:
            return f"max_tokens {sampling.max_tokens} x {request.num_samples} samples is no output"
        if sampling.stop and not self._has_tokenizer:
            return "stop strings need a tokenizer, and the model has none"
        lowest, highest = min(request.prompt_token_ids), max(request.prompt_token_ids)
        if lowest < 0 or highest >= self._vocab_size:
            wrong = lowest if lowest < 0 else highest
            return f"token id {wrong} is outside the vocabulary of {self._vocab_size}"
        return ""

    def _pool_state(self) -> PoolState:
        return PoolState(
            self._scheduler.num_running,
            self._scheduler.num_waiting,
            self._scheduler.blocks_used,
            self.config.num_blocks,
        )

    def _now(self) -> float:
        return self._clock() - self._ready_at
