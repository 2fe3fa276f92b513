"""The locks of a run: one per store, one per GPU."""

import os
import re
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from thothy_batch.engine.hardware import find_gpu
from thothy_batch.errors import LockedError, LockHolder
from thothy_batch.runner.session.options import IfLocked
from thothy_batch.runner.session.stop_conditions import StopNow
from thothy_batch.store import FileLock


def holder_of(run_id: str, manifest: Path | None, started: datetime) -> LockHolder:
    """This process as the lock file shows it to others."""
    return LockHolder(
        pid=os.getpid(),
        host=socket.gethostname(),
        run_id=run_id,
        since=_since(started),
        manifest="" if manifest is None else str(manifest),
    )


def _since(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds")


@contextmanager
def locked(
    store_lock: Path,
    device: str,
    holder: LockHolder,
    if_locked: IfLocked,
    note: Callable[[str], None],
    may_wait: Callable[[], bool],
) -> Iterator[None]:
    """Hold the store's lock file and, on a GPU, the device.

    Raises LockedError, and StopNow where it would have to wait and `may_wait` says no.
    """
    with (
        _held(FileLock(store_lock), holder, if_locked, note, may_wait),
        device_locked(device, holder, if_locked, note, may_wait),
    ):
        yield


@contextmanager
def device_locked(
    device: str,
    holder: LockHolder,
    if_locked: IfLocked,
    note: Callable[[str], None],
    may_wait: Callable[[], bool] = lambda: True,
) -> Iterator[None]:
    """Hold a GPU; the CPU is not locked. Raises as `locked` does."""
    if device == "cpu":
        yield
        return
    lock = FileLock(_gpu_lock_path(), for_all=True)
    with _held(lock, holder, if_locked, note, may_wait):
        yield


def _gpu_lock_path() -> Path:
    """The lock file of the one GPU that this process may use; each GPU has its own."""
    gpu = find_gpu()
    name = "cuda" if gpu is None else re.sub("[^A-Za-z0-9-]", "", gpu.uuid)
    return Path(tempfile.gettempdir()) / f"thothy-batch-{name}.lock"


@contextmanager
def _held(
    lock: FileLock,
    holder: LockHolder,
    if_locked: IfLocked,
    note: Callable[[str], None],
    may_wait: Callable[[], bool],
) -> Iterator[None]:
    _acquire(lock, holder, if_locked, note, may_wait)
    try:
        yield
    finally:
        lock.release()


def _acquire(
    lock: FileLock,
    holder: LockHolder,
    if_locked: IfLocked,
    note: Callable[[str], None],
    may_wait: Callable[[], bool],
) -> None:
    try:
        lock.acquire(holder)
    except LockedError as busy:
        if if_locked.action != "wait":
            raise
        if not may_wait():
            raise StopNow from busy
        note(f"{busy.message}; waiting up to {if_locked.wait_s:g} s")
        lock.acquire(holder, patience_s=if_locked.wait_s)
        lock.update(replace(holder, since=_since(datetime.now().astimezone())))
