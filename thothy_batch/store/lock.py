"""A lock file: one run at a time holds a store or a device, and the file names that run.

`flock` belongs to the open file, so it ends with the process however that dies. No child keeps it:
the descriptor closes on exec, and a forked copy of the process closes its own at once.
"""

import contextlib
import errno
import fcntl
import json
import os
import socket
import stat
import time
from dataclasses import asdict
from pathlib import Path

from thothy_batch.errors import LockedError, LockHolder
from thothy_batch.store.files import storage_error

# A command that only checks the lock or publishes leftovers holds it briefly; a run must not give
# up because of that.
_GLANCE_S = 0.4
_SHORT_COMMAND_S = 60.0
_POLL_S = 0.05

# Links are not followed, pipes do not block, and no child inherits the descriptor.
_SAFELY = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_DETAILS = ("host", "run_id", "since", "manifest")
_MAX_DETAILS = 65_536
_MAX_SHOWN = 1_000

_held: "set[FileLock]" = set()
_fork_hook_set = False


class FileLock:
    """An exclusive lock on one file. Ends with `release`, the `with` block, or the process."""

    def __init__(self, path: Path, *, for_all: bool = False) -> None:
        """`for_all`: other users must be able to lock the same file, whatever the umask is."""
        self.path = path
        self._for_all = for_all
        self._fd: int | None = None

    @property
    def held(self) -> bool:
        return self._fd is not None

    def acquire(self, holder: LockHolder, *, patience_s: float = _GLANCE_S) -> "FileLock":
        """Take the lock and write `holder` into it.

        Waits up to `patience_s`, or up to a minute if the holder is a command without a run, which
        publishes leftovers and ends. Raises LockedError with the holder's details.
        """
        if self._fd is not None:
            raise RuntimeError(f"{self.path} is already held by this object")
        fd = self._open()
        try:
            if not _wait_for(fd, self.path, patience_s):
                raise _locked_error(self.path)
        except BaseException:  # a signal ends the wait, too
            os.close(fd)
            raise
        self._fd = fd
        _close_after_fork(self)
        _write_holder(fd, holder)
        return self

    def update(self, holder: LockHolder) -> None:
        """Rewrite the details, for example once the run has an id."""
        if self._fd is None:
            raise RuntimeError(f"{self.path} is not held")
        _write_holder(self._fd, holder)

    def release(self) -> None:
        """Release the lock; the file stays, because removing it would admit two holders."""
        fd, self._fd = self._fd, None
        _held.discard(self)
        if fd is None:
            return
        try:
            os.ftruncate(fd, 0)
        except OSError:
            pass  # the details serve messages only; the lock itself ends with the descriptor
        finally:
            os.close(fd)

    def __enter__(self) -> "FileLock":
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()

    def _open(self) -> int:
        try:
            self.path.parent.mkdir(exist_ok=True)
            return self._open_old_or_new()
        except OSError as error:
            raise storage_error(error, "cannot open the lock file", self.path) from error

    def _open_old_or_new(self) -> int:
        """Open without O_CREAT first: Linux refuses O_CREAT on another user's file in /tmp."""
        try:
            fd = os.open(self.path, os.O_RDWR | _SAFELY)
        except FileNotFoundError:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | _SAFELY, 0o666)
            if self._for_all:
                with contextlib.suppress(OSError):  # another process was faster
                    os.fchmod(fd, 0o666)
        except PermissionError:
            if not self._for_all:  # without write permission beside a store no run is possible
                raise
            fd = os.open(self.path, os.O_RDONLY | _SAFELY)  # read access suffices for locking
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise OSError(errno.EINVAL, "it is no regular file")
        return fd

    def _forget(self) -> None:
        """Close the inherited descriptor in a forked child; the parent keeps its lock."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def read_holder(path: Path) -> LockHolder | None:
    """Return the current holder; None if the lock is free, also after a kill."""
    try:
        fd = os.open(path, os.O_RDONLY | _SAFELY)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read_details(path)
    except OSError:
        return None
    finally:
        os.close(fd)
    return None


def _wait_for(fd: int, path: Path, patience_s: float) -> bool:
    """Try until the lock is taken or the patience ends."""
    begin = time.monotonic()
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            pass
        except OSError as error:
            raise storage_error(error, "cannot lock", path) from error
        waited = time.monotonic() - begin
        short_command = waited < _SHORT_COMMAND_S and not _read_details(path).run_id
        if waited >= patience_s and not (patience_s > 0 and short_command):
            return False
        time.sleep(_POLL_S)


def _locked_error(path: Path) -> LockedError:
    holder = _read_details(path)
    who = f"process {holder.pid}" if holder.pid else "another process"
    parts = [f"{who} on {holder.host}" if holder.host else who]
    parts += [f"run {holder.run_id}"] if holder.run_id else []
    parts += [f"since {holder.since}"] if holder.since else []
    parts += [f"manifest {holder.manifest}"] if holder.manifest else []
    # The lock of a store lies in its journal folder, an unfamiliar path for users.
    held = path.parent.with_suffix("") if path.parent.suffix == ".journal" else path
    return LockedError(
        f"another run holds {held}: {', '.join(parts)}",
        holder=holder,
        hint="wait for it, or use --if-locked skip or --if-locked wait=30m",
    )


def _read_details(path: Path) -> LockHolder:
    """Return what the holder wrote. In a shared folder it may be any text."""
    try:
        fd = os.open(path, os.O_RDONLY | _SAFELY)
        try:
            details = json.loads(os.read(fd, _MAX_DETAILS))
        finally:
            os.close(fd)
        host, run_id, since, manifest = (_one_line(details.get(name, "")) for name in _DETAILS)
        pid = int(details["pid"])
        if host == socket.gethostname() and not _is_alive(pid):
            return LockHolder(
                pid=0
            )  # from an earlier holder: the current one could not write there
        return LockHolder(pid, host, run_id, since, manifest)
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return LockHolder(pid=0)  # held, with details not written yet


def _one_line(value: object) -> str:
    text = str(value)[:_MAX_SHOWN]
    return "".join(char if char.isprintable() else " " for char in text)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError, ValueError):
        pass  # owned by another user
    return True


def _write_holder(fd: int, holder: LockHolder) -> None:
    data = json.dumps(asdict(holder)).encode()
    try:
        os.ftruncate(fd, 0)
        os.pwrite(fd, data, 0)
    except OSError:
        return  # a full disk must not prevent locking


def _close_after_fork(lock: FileLock) -> None:
    global _fork_hook_set
    _held.add(lock)
    if not _fork_hook_set:
        os.register_at_fork(after_in_child=_forget_all)
        _fork_hook_set = True


def _forget_all() -> None:
    for lock in _held:
        lock._forget()
    _held.clear()
