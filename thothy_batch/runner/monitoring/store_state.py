"""What a store is doing: from its lock and status file while a run goes on, else from its rows."""

from pathlib import Path

from thothy_batch.errors import StoreBusyError, StoreError
from thothy_batch.store.files import lock_path, real_path, status_path
from thothy_batch.store.lock import read_holder
from thothy_batch.store.status import read_status


def store_state(store: Path) -> dict[str, object]:
    """Keys: store, state (running | idle), holder, progress (of a run that goes on), last_run.

    A run whose process died is marked killed and its rows are published. Raises StoreError where
    there is no store.
    """
    store = real_path(store)
    holder = read_holder(lock_path(store))
    progress = read_status(status_path(store))
    if holder is not None and holder.run_id:
        ours = progress if progress and progress.get("run_id") == holder.run_id else None
        return {
            "store": str(store),
            "state": "running",
            "run_id": holder.run_id,
            "pid": holder.pid,
            "host": holder.host,
            "since": holder.since,
            "manifest": holder.manifest,
            "progress": ours,
            "last_run": None,
        }
    if not store.exists() and progress is None:
        raise StoreError(
            f"there is no store at {store}",
            hint="run a manifest first, or name the store: thothy-batch status path/to/store",
        )
    return _idle(store, progress)


def _idle(store: Path, progress: dict[str, object] | None) -> dict[str, object]:
    # Late: duckdb takes a quarter of a second to import, and a run that goes on needs none of it.
    from thothy_batch.store.queries.read import list_runs
    from thothy_batch.store.store import publish_if_free

    published = publish_if_free(store)
    try:
        runs = list_runs(store, limit=1) if store.exists() else []
    except StoreBusyError:
        # Another program holds the file, but the last run left its end in the status file, too.
        if progress is None or progress.get("state") != "finished" or "num_items" not in progress:
            raise
        runs = [progress]
    return {
        "store": str(store),
        "state": "idle",
        "published": published,
        "last_run": runs[0] if runs else None,
        "progress": progress if not runs else None,
    }
