"""Publishes what a dead run left, for commands that only read."""

import logging
import os
import socket
from datetime import datetime
from pathlib import Path

from thothy_batch.errors import LockedError, LockHolder, StoreError
from thothy_batch.store.files import journal_folder, lock_path, real_path
from thothy_batch.store.journal.segment import segment_paths
from thothy_batch.store.lock import FileLock
from thothy_batch.store.store import Store

_log = logging.getLogger(__name__)


def publish_if_free(path: Path) -> bool:
    """Publish what a dead run left; True if nothing is left.

    Does nothing while a run holds the store, or without write permission. What the disk has no
    room for is left to a later command.
    """
    path = real_path(path)
    folder = journal_folder(path)
    if not folder.is_dir() or not segment_paths(folder):
        return True
    since = datetime.now().astimezone().isoformat(timespec="seconds")
    holder = LockHolder(pid=os.getpid(), host=socket.gethostname(), since=since)
    lock = FileLock(lock_path(path))
    try:
        lock.acquire(holder, patience_s=0.0)
    except (LockedError, StoreError):
        return False
    try:
        store = Store.open(path)
        store.close()
    except StoreError as error:  # reading may work all the same
        _log.warning(
            "the rows of the last run that are still in the journal are not shown: %s", error
        )
        return False
    finally:
        lock.release()
    return not segment_paths(folder)
