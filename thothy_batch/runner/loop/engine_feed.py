"""Feeds the engine: pending requests in order, and those that were submitted and have not ended."""

import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from thothy_batch.engine.protocol import EngineClient
from thothy_batch.plan import OutputEstimates
from thothy_batch.records import EngineUpdate, Request
from thothy_batch.runner.work.pending_request import PendingRequest
from thothy_batch.testing import faults

_WINDOW_OF_MAX_SEQS = 4
_SMALLEST_WINDOW = 64


@dataclass(slots=True)
class EngineFeed:
    """The queue before the engine and the requests inside it."""

    engine: EngineClient
    estimates: OutputEstimates
    pending: deque[PendingRequest] = field(default_factory=deque)  # in the order of submission
    in_engine: dict[int, PendingRequest] = field(default_factory=dict)
    last_update: EngineUpdate = field(default_factory=EngineUpdate)  # that reported the state
    _completion_times: deque[float] = field(default_factory=deque)  # of the last second

    @property
    def is_empty(self) -> bool:
        return not self.pending and not self.in_engine

    @property
    def room(self) -> int:
        """Requests that may be submitted now: enough for the engine to choose from, few enough to
        stop at any time."""
        return self._window() - len(self.in_engine)

    def submit(self, batch: Iterable[PendingRequest], run_end: float | None) -> None:
        """Submit requests with their latest estimates. `run_end`: time.monotonic() of the run's
        own end; None: no limit."""
        batch = list(batch)
        if not batch:
            return
        for each in batch:
            self._update_estimates(each, run_end)
        faults.at("run.submit")
        self.in_engine |= {each.request.request_id: each for each in batch}
        self.engine.submit([each.request for each in batch])

    def poll(self, timeout_s: float) -> EngineUpdate:
        """Poll the engine and keep its latest state."""
        update = self.engine.poll(timeout_s)
        # A poll that timed out does not report the engine's state.
        if update.blocks_total:
            self.last_update = replace(update, results=[], failures=[], steps=[], events=[])
        return update

    def complete(self, request_id: int) -> PendingRequest:
        """Remove a request that the engine completed, and note the time."""
        now = time.monotonic()
        self._completion_times.append(now)
        while now - self._completion_times[0] > 1.0:
            self._completion_times.popleft()
        return self.in_engine.pop(request_id)

    def cancel_planned(self, pending: PendingRequest) -> None:
        """Tell the engine that a planned request will not come: its prefixes lose a reader."""
        self.engine.cancel([pending.request])

    def _update_estimates(self, pending: PendingRequest, run_end: float | None) -> None:
        """Set the expected lengths and the deadline as far as they are known by now."""
        request, job = pending.request, pending.primary.job
        expected = self.estimates.expected(job.name, request.sampling)
        num_later = len(job.kind.stages) - 1 - pending.stage
        later = num_later * request.sampling.max_tokens
        later_prompt = num_later * self._next_prompt_tokens(request)
        end = pending.wanted_until(run_end)
        known = (request.expected_tokens, request.ends_at, request.later_tokens)
        if known != (expected, end, later) or request.later_prompt_tokens != later_prompt:
            pending.request = replace(
                request,
                expected_tokens=expected,
                ends_at=end,
                later_tokens=later,
                later_prompt_tokens=later_prompt,
            )

    def _next_prompt_tokens(self, request: Request) -> int:
        """Tokens to compute of the prompt that follows: it holds this request's prompt, which is
        cached where prefixes are shared, and its output."""
        is_cached = self.engine.info.engine.prefix_sharing
        return request.sampling.max_tokens + (0 if is_cached else len(request.prompt_token_ids))

    def _window(self) -> int:
        window = max(_SMALLEST_WINDOW, _WINDOW_OF_MAX_SEQS * self.engine.info.engine.max_seqs)
        window += len(self._completion_times)
        return window + min(self.last_update.num_deferred, _WINDOW_OF_MAX_SEQS * window)
