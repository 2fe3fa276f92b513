"""Periodic work of a run: syncs the journal, publishes, writes the status file, updates the
display."""

import os
import socket
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from thothy_batch.records import EngineUpdate
from thothy_batch.runner.monitoring.event_log import EventLog
from thothy_batch.runner.monitoring.progress import Forecast, Observer, make_snapshot
from thothy_batch.runner.monitoring.run_metrics import RunMetrics
from thothy_batch.runner.work.counts import RunCounts
from thothy_batch.store import Store, StorePaths, write_status

_STATUS_EVERY_S = 1.0
# The keys of a status that the event log repeats.
_LOGGED = (
    *("status", "stop_reason", "exit_code", "error", "num_items", "num_done", "num_reused"),
    *("num_failed", "num_not_run", "output_tokens", "engine_s"),
)


@dataclass(slots=True)
class StatusFile:
    """Writes the file that `status` reads while the run keeps the database to itself."""

    paths: StorePaths
    run_id: str
    manifest: Path
    started_at: datetime
    log: EventLog  # has the changes of its state
    metrics: RunMetrics  # written along with it
    _state: str = ""
    _next: float = 0.0

    def write(self, state: str, **more: object) -> None:
        """Writes it now; `more` are keys of StatusFileDocument."""
        self._next = time.monotonic() + _STATUS_EVERY_S
        status: dict[str, object] = {
            "state": state,
            "run_id": self.run_id,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "manifest": str(self.manifest),
            "store": str(self.paths.store),
            "started_at": self.started_at.isoformat(timespec="seconds"),
            "updated_at": datetime.now(UTC).isoformat(timespec="seconds"),
            **more,
        }
        if self.metrics.path is not None:  # for the command that finds this run dead
            status["metrics_file"] = os.path.abspath(self.metrics.path)
        write_status(self.paths.status, status)
        if state != self._state:
            self._state = state
            logged = {name: more[name] for name in _LOGGED if name in more}
            self.log.write("state", state=state, **logged)
        if not self.metrics.write(status):
            self.log.write("metrics_not_written", path=self.metrics.path)
            self.metrics.path = None

    @property
    def due(self) -> bool:
        return time.monotonic() >= self._next


@dataclass(slots=True)
class ProgressReporter:
    """Called by the run loop after every poll of the engine."""

    store: Store
    status: StatusFile
    counts: RunCounts
    forecast: Forecast
    observer: Observer
    began: float = field(default_factory=time.monotonic)

    def __call__(self, update: EngineUpdate, stopping: bool) -> None:
        if update.totals.num_steps:
            self.store.record_totals(update.totals)
            self.status.metrics.totals = update.totals
        self.store.tick()
        now = make_snapshot(
            state="stopping" if stopping else update.condition or "running",
            run_id=self.status.run_id,
            began=self.began,
            counts=self.counts,
            forecast=self.forecast,
            update=update,
        )
        self.observer.progress(now)
        if self.status.due:
            self.status.write(now.state, **now.as_json())
