"""Where a store's files lie, and how a file is made so that a power cut cannot take it back."""

import errno
import os
from pathlib import Path

from thothy_batch.errors import StoreError


def real_path(store_path: Path) -> Path:
    """The store's path with symlinks followed: one store has one lock, however it is named."""
    return Path(os.path.realpath(store_path))


def journal_folder(store_path: Path) -> Path:
    """`<store>.journal`: the lock, the status file, the segments and the answer index."""
    path = real_path(store_path)
    return path.with_name(path.name + ".journal")


def lock_path(store_path: Path) -> Path:
    """The lock file of a store (for `lock.FileLock`)."""
    return journal_folder(store_path) / "lock"


def status_path(store_path: Path) -> Path:
    """The file in which a run says how far it is (for `status.read_status`)."""
    return journal_folder(store_path) / "status.json"


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder durable: a synced file without a synced name can vanish."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def replace_file(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Writes the whole file or leaves the old one; a reader sees one of the two, never a part."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
        if durable:
            sync_folder(path.parent)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def storage_error(error: OSError, what: str, path: Path) -> StoreError:
    """The operating system's refusal as an error that says what to do."""
    hints = {
        errno.ENOSPC: "free some space on that disk, then run the same command again",
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
