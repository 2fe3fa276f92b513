"""Shows a run while it goes on: progress, status file, metrics, event log."""

from typing import TYPE_CHECKING

from thothy_batch.lazy import lazy_face

if TYPE_CHECKING:
    from thothy_batch.runner.monitoring.dead_run import publish_leftovers
    from thothy_batch.runner.monitoring.progress import Observer, Silent, Snapshot
    from thothy_batch.runner.monitoring.status_document import (
        IdleDocument,
        RunningDocument,
        StatusDocument,
        StatusFileDocument,
    )
    from thothy_batch.runner.monitoring.store_state import read_store_state

__all__ = [
    "IdleDocument",
    "Observer",
    "RunningDocument",
    "Silent",
    "Snapshot",
    "StatusDocument",
    "StatusFileDocument",
    "publish_leftovers",
    "read_store_state",
]

__getattr__ = lazy_face(
    __name__,
    {
        "dead_run": ("publish_leftovers",),
        "progress": (
            "Observer",
            "Silent",
            "Snapshot",
        ),
        "status_document": (
            "IdleDocument",
            "RunningDocument",
            "StatusDocument",
            "StatusFileDocument",
        ),
        "store_state": ("read_store_state",),
    },
)
