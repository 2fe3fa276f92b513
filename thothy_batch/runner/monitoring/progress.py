"""Progress of a run in numbers; an observer decides how to show them."""

import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from thothy_batch.records import EngineUpdate, Request
from thothy_batch.runner.monitoring.status_document import ProgressDocument
from thothy_batch.runner.work.counts import JobCount, RunCounts

_RATE_WINDOW_S = 20.0
_MIN_WINDOW_S = 0.2  # a rate over less is noise


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A run at one moment."""

    state: str  # running | stopping | restarting (its engine) | stalled (no step for long)
    run_id: str
    elapsed_s: float
    jobs: tuple[JobCount, ...]
    num_items: int
    num_settled: int
    num_running: int = 0
    num_waiting: int = 0
    blocks_used: int = 0
    blocks_total: int = 0
    output_tokens: int = 0
    output_tokens_per_s: float = 0.0
    tokens_left: int = 0  # expected
    eta_s: float | None = None

    def as_json(self) -> ProgressDocument:
        """The figures for the status file, which has state and run_id already."""
        return {
            "elapsed_s": self.elapsed_s,
            "num_items": self.num_items,
            "num_settled": self.num_settled,
            "num_running": self.num_running,
            "num_waiting": self.num_waiting,
            "blocks_used": self.blocks_used,
            "blocks_total": self.blocks_total,
            "output_tokens": self.output_tokens,
            "output_tokens_per_s": round(self.output_tokens_per_s, 1),
            "tokens_left": self.tokens_left,
            "eta_s": self.eta_s,
            "jobs": [job.as_json() for job in self.jobs],
        }


class Observer(Protocol):
    """Receives the events of a run."""

    def phase(self, text: str) -> None:
        """A phase begins or advances: loading, planning, computing."""

    def note(self, text: str) -> None:
        """A message for the user."""

    def progress(self, snapshot: Snapshot) -> None:
        """The numbers, several times a second."""

    def close(self) -> None:
        """The run is over; may be called twice."""


class Silent:
    """An observer that shows nothing."""

    def phase(self, text: str) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""

    def progress(self, snapshot: Snapshot) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


@dataclass(slots=True)
class Forecast:
    """Expected output tokens left: the max_tokens of open requests, scaled by the share that
    finished requests used of theirs."""

    budget_left: int = 0
    budget_seen: int = 0
    output_seen: int = 0
    _points: deque[tuple[float, int]] = field(default_factory=deque)

    @classmethod
    def of(cls, requests: Iterable[Request]) -> "Forecast":
        return cls(budget_left=sum(map(_budget, requests)))

    def finish(self, request: Request, output_tokens: int) -> None:
        """Counts a request that the engine completed."""
        self.drop(request)
        self.budget_seen += _budget(request)
        self.output_seen += output_tokens

    def add(self, request: Request) -> None:
        """Counts the next stage of a completed request."""
        self.budget_left += _budget(request)

    def drop(self, request: Request) -> None:
        """Uncounts a request that will not be computed."""
        self.budget_left -= _budget(request)

    @property
    def tokens_left(self) -> int:
        share = self.output_seen / self.budget_seen if self.budget_seen else 1.0
        return round(self.budget_left * share)

    def rate(self, output_tokens: int) -> float:
        """Tokens a second over the last 20 s; `output_tokens`: the engine's sum so far."""
        now = time.monotonic()
        self._points.append((now, output_tokens))
        while now - self._points[0][0] > _RATE_WINDOW_S:
            self._points.popleft()
        began, tokens = self._points[0]
        elapsed = now - began
        return (output_tokens - tokens) / elapsed if elapsed > _MIN_WINDOW_S else 0.0


def make_snapshot(
    *,
    state: str,
    run_id: str,
    began: float,
    counts: RunCounts,
    forecast: Forecast,
    update: EngineUpdate,
) -> Snapshot:
    """The numbers of this moment. `began` is of time.monotonic()."""
    rate = forecast.rate(update.totals.output_tokens)
    left = forecast.tokens_left
    return Snapshot(
        state=state,
        run_id=run_id,
        elapsed_s=round(time.monotonic() - began, 1),
        jobs=tuple(counts.jobs),
        num_items=counts.total("num_items"),
        num_settled=counts.total("num_settled"),
        num_running=update.num_running,
        num_waiting=update.num_waiting,
        blocks_used=update.blocks_used,
        blocks_total=update.blocks_total,
        output_tokens=update.totals.output_tokens,
        output_tokens_per_s=rate,
        tokens_left=left,
        eta_s=round(left / rate, 1) if rate > 0 else None,
    )


def _budget(request: Request) -> int:
    return request.sampling.max_tokens * request.num_samples
