"""Durable results: a journal that is authoritative until DuckDB has its rows, and all queries.

Knows nothing of models, prompts or scheduling. `Store` writes, `queries` reads; the lock and the
status file need no DuckDB.
"""

from typing import TYPE_CHECKING

from thothy_batch.lazy import lazy_face

if TYPE_CHECKING:
    from thothy_batch.store.files import (
        check_path,
        journal_folder,
        lock_path,
        real_path,
        status_path,
    )
    from thothy_batch.store.leftovers import publish_if_free
    from thothy_batch.store.lock import FileLock, read_holder
    from thothy_batch.store.paths import StorePaths
    from thothy_batch.store.status import read_status, write_status
    from thothy_batch.store.store import Store

__all__ = [
    "FileLock",
    "Store",
    "StorePaths",
    "check_path",
    "journal_folder",
    "lock_path",
    "publish_if_free",
    "read_holder",
    "read_status",
    "real_path",
    "status_path",
    "write_status",
]

__getattr__ = lazy_face(
    __name__,
    {
        "files": (
            "check_path",
            "journal_folder",
            "lock_path",
            "real_path",
            "status_path",
        ),
        "leftovers": ("publish_if_free",),
        "lock": (
            "FileLock",
            "read_holder",
        ),
        "paths": ("StorePaths",),
        "status": (
            "read_status",
            "write_status",
        ),
        "store": ("Store",),
    },
)
