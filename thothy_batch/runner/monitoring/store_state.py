"""State of a store: from its lock and status file while a run holds it, else from its rows."""

from pathlib import Path
from typing import cast

from thothy_batch.errors import StoreBusyError, StoreError
from thothy_batch.report import NightRow
from thothy_batch.runner.monitoring.status_document import (
    IdleDocument,
    StatusDocument,
    StatusFileDocument,
)
from thothy_batch.store import lock_path, read_holder, read_status, real_path, status_path


def read_store_state(store: Path) -> StatusDocument:
    """The document of `status --json`.

    A run whose process died is marked killed and its rows are published. Raises StoreError where
    no store exists.
    """
    store = real_path(store)
    holder = read_holder(lock_path(store))
    progress = _progress(store)
    if holder is not None and holder.run_id:
        is_current = progress is not None and progress.get("run_id") == holder.run_id
        return {
            "store": str(store),
            "state": "running",
            "run_id": holder.run_id,
            "pid": holder.pid,
            "host": holder.host,
            "since": holder.since,
            "manifest": holder.manifest,
            "progress": progress if is_current else None,
            "last_run": None,
        }
    if not store.exists() and progress is None:
        raise StoreError(
            f"there is no store at {store}",
            hint="run a manifest first, or name the store: thothy-batch status path/to/store",
        )
    return _idle(store)


def _progress(store: Path) -> StatusFileDocument | None:
    return cast(StatusFileDocument | None, read_status(status_path(store)))


def _idle(store: Path) -> IdleDocument:
    # Imported late: duckdb takes 0.25 s to import, and the state of a running store needs none.
    from thothy_batch.runner.monitoring.dead_run import ENDED, ended_status, publish_leftovers
    from thothy_batch.store.queries import list_runs

    published = publish_leftovers(store)
    progress = _progress(store)
    last_run: NightRow | StatusFileDocument | None = None
    try:
        runs = list_runs(store, limit=1) if store.exists() else []
        last_run = cast(NightRow, runs[0]) if runs else None
        if last_run is not None and progress is not None and _has_end_of(last_run, progress):
            last_run = progress
    except StoreBusyError:
        # Another program holds the file; the status file has the end of the last run too. Where it
        # has none, its process died: no run holds the store.
        if progress is None or "num_items" not in progress:
            raise
        last_run = progress if progress["state"] in ENDED else ended_status(progress)
    return {
        "store": str(store),
        "state": "idle",
        "published": published,
        "last_run": last_run,
        "progress": progress if last_run is None else None,
    }


def _has_end_of(row: NightRow, progress: StatusFileDocument) -> bool:
    """True for a run that ended but whose end waits in the journal, where the disk has no room to
    publish it: no run holds the store, and the status file has its counts."""
    is_same = row["status"] == "running" and row["run_id"] == progress.get("run_id")
    return is_same and progress["state"] == "finished" and "num_items" in progress
