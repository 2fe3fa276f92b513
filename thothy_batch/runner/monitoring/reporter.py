"""What happens a few times a second while a run goes on: sync, publish, status file, display."""

import os
import socket
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from thothy_batch.records import EngineUpdate
from thothy_batch.runner.monitoring.event_log import EventLog
from thothy_batch.runner.monitoring.progress import Forecast, Observer, snapshot
from thothy_batch.runner.monitoring.prometheus import write_metrics
from thothy_batch.runner.work.counts import RunCounts
from thothy_batch.store.paths import StorePaths
from thothy_batch.store.status import write_status
from thothy_batch.store.store import Store

_STATUS_EVERY_S = 1.0
# Of a status, what the event log has of it, too.
_END = (
    *("status", "stop_reason", "exit_code", "error", "num_items", "num_done", "num_reused"),
    *("num_failed", "num_not_run", "output_tokens", "engine_s"),
)


@dataclass(slots=True)
class StatusFile:
    """What `status` reads while the run keeps the database to itself."""

    paths: StorePaths
    run_id: str
    manifest: Path
    started_at: datetime
    log: EventLog  # has the changes of its state
    metrics: Path | None = None  # a Prometheus text file beside it
    _state: str = ""
    _next: float = 0.0

    def write(self, state: str, **more: object) -> None:
        """Now."""
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
        write_status(self.paths.status, status)
        if state != self._state:
            self._state = state
            told = {name: more[name] for name in _END if name in more}
            self.log.write("state", state=state, **told)
        if self.metrics is not None and not write_metrics(self.metrics, status):
            self.log.write("metrics_not_written", path=self.metrics)
            self.metrics = None

    @property
    def due(self) -> bool:
        return time.monotonic() >= self._next


@dataclass(slots=True)
class ProgressReporter:
    """Called by the night's loop after every poll."""

    store: Store
    status: StatusFile
    account: RunCounts
    forecast: Forecast
    observer: Observer
    began: float = field(default_factory=time.monotonic)

    def __call__(self, update: EngineUpdate, stopping: bool) -> None:
        if update.totals.num_steps:
            self.store.record_totals(update.totals)
        self.store.tick()
        now = snapshot(
            state="stopping" if stopping else update.condition or "running",
            run_id=self.status.run_id,
            began=self.began,
            account=self.account,
            forecast=self.forecast,
            update=update,
        )
        self.observer.progress(now)
        if self.status.due:
            self.status.write(now.state, **now.as_json())
