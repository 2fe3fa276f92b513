"""The files of one store, resolved once from the store's path."""

from dataclasses import dataclass
from pathlib import Path

from thothy_batch.store.files import journal_folder, lock_path, status_path


@dataclass(frozen=True, slots=True)
class StorePaths:
    """Paths of a run's files: the store as it was named, the others beside its real path."""

    store: Path
    journal: Path  # folder of the segments and of the files below
    lock: Path
    status: Path
    event_log: Path
    engine_log: Path
    metrics: Path | None  # Prometheus text file; None: not asked for

    @classmethod
    def of(cls, store: Path, metrics: Path | None = None) -> "StorePaths":
        """Derive every path from the store's."""
        folder = journal_folder(store)
        return cls(
            store=store,
            journal=folder,
            lock=lock_path(store),
            status=status_path(store),
            event_log=folder / "events.jsonl",
            engine_log=folder / "engine.log",
            metrics=metrics,
        )
