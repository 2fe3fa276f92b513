"""Shows a run while it goes on: progress, status file, metrics, event log."""

from thothy_batch.runner.monitoring.progress import Observer, Silent, Snapshot
from thothy_batch.runner.monitoring.status_document import (
    IdleDocument,
    RunningDocument,
    StatusDocument,
    StatusFileDocument,
)
from thothy_batch.runner.monitoring.store_state import store_state

__all__ = [
    "IdleDocument",
    "Observer",
    "RunningDocument",
    "Silent",
    "Snapshot",
    "StatusDocument",
    "StatusFileDocument",
    "store_state",
]
