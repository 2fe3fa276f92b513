"""The locks of a run: one per store, one per GPU."""

import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from thothy_batch.errors import LockedError, LockHolder
from thothy_batch.runner.options import IfLocked
from thothy_batch.store.files import lock_path
from thothy_batch.store.lock import FileLock


def holder_of(run_id: str, manifest: Path, started: datetime) -> LockHolder:
    """This process, as others are told about it."""
    return LockHolder(
        pid=os.getpid(),
        host=socket.gethostname(),
        run_id=run_id,
        since=started.isoformat(timespec="seconds"),
        manifest=str(manifest),
    )


@contextmanager
def locked(
    store: Path,
    device: str,
    holder: LockHolder,
    if_locked: IfLocked,
    note: Callable[[str], None],
) -> Iterator[None]:
    """Holds the store and, on a GPU, the device. Raises LockedError."""
    locks = [FileLock(lock_path(store))]
    if device != "cpu":
        locks.append(FileLock(Path(tempfile.gettempdir()) / "thothy-batch-cuda-0.lock"))
    try:
        for lock in locks:
            _acquire(lock, holder, if_locked, note)
        yield
    finally:
        for lock in reversed(locks):
            lock.release()


def _acquire(
    lock: FileLock, holder: LockHolder, if_locked: IfLocked, note: Callable[[str], None]
) -> None:
    try:
        lock.acquire(holder)
    except LockedError as busy:
        if if_locked.action != "wait":
            raise
        note(f"{busy.message}; waiting up to {if_locked.wait_s:g} s")
        lock.acquire(holder, patience_s=if_locked.wait_s)
