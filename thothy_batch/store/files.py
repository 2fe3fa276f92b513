"""The paths of a store's files, the check of a store path, and durable writes."""

import contextlib
import errno
import os
from pathlib import Path

from thothy_batch.errors import StoreError

NO_SPACE_HINT = (
    "free some space on that disk, then give the same command again: "
    "what was finished is kept, and only the rest is computed"
)


def real_path(store_path: Path) -> Path:
    """Resolve symlinks, so that one store has one lock under every name."""
    return Path(os.path.realpath(store_path))


def journal_folder(store_path: Path) -> Path:
    """Return `<store>.journal`, the folder of lock, status file, segments and result index."""
    path = real_path(store_path)
    return path.with_name(path.name + ".journal")


def lock_path(store_path: Path) -> Path:
    """Return the lock file of a store (for `lock.FileLock`)."""
    return journal_folder(store_path) / "lock"


def status_path(store_path: Path) -> Path:
    """Return the status file of a run (for `status.read_status`)."""
    return journal_folder(store_path) / "status.json"


def check_path(path: Path) -> None:
    """Refuse a path that cannot be a store before anything is written."""
    if os.path.isdir(path):
        raise StoreError(
            f"the store {path} is a directory",
            hint="name a file, for example --store artifacts.duckdb",
        )
    if os.path.exists(path) and not path.is_file():
        raise StoreError(
            f"the store {path} is a device or a pipe, not a file",
            hint="name a file, for example --store artifacts.duckdb",
        )
    if "?" in str(path):
        raise StoreError(
            f"the store {path} has a ? in its path, which DuckDB does not take",
            hint="choose another path with --store",
        )
    _check_content(path)
    if not path.parent.is_dir():
        raise StoreError(
            f"the folder of the store does not exist: {path.parent}",
            hint="create it, or choose another path with --store",
        )


def _check_content(path: Path) -> None:
    """Refuse any other type of file.

    DuckDB opens a Parquet, CSV or JSON file as a view in an in-memory database, and rows merged
    into that vanish on close.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(12)
    except FileNotFoundError:
        return
    except OSError as error:
        raise storage_error(error, "cannot read the store", path) from error
    if head and head[8:] != b"DUCK":
        raise StoreError(
            f"{path} is not a DuckDB file", hint="move it away or choose another path: --store"
        )


def remove_temporary(folder: Path) -> None:
    """Remove temporary files that killed writers left. The caller holds the lock."""
    for path in folder.glob("*.tmp"):
        with contextlib.suppress(OSError):
            path.unlink()


def storage_error(error: OSError, what: str, path: Path) -> StoreError:
    """Translate an OSError into an error with a hint."""
    hints = {
        errno.ENOSPC: NO_SPACE_HINT,
        errno.EDQUOT: "the disk quota is used up: free some space, then run the same command again",
        errno.EFBIG: "the file would pass this process's size limit (ulimit -f): raise it",
        errno.EACCES: "give this user the right to write there, or choose another path: --store",
        errno.EPERM: "give this user the right to write there, or choose another path: --store",
        errno.EROFS: "that file system is mounted read-only: choose another path with --store",
        errno.ENOENT: "create the folder first, or choose another path with --store",
        errno.ENOTDIR: "something on the path is a file, not a folder: choose another --store",
        errno.EIO: "the disk reports an error: check it, and copy the store to a sound one",
    }
    hint = hints.get(error.errno or 0, "check the disk and the permissions of that path")
    return StoreError(f"{what} {path}: {error.strerror or error}", hint=hint)
