"""A lock file: one run at a time holds a store (or a device), and says who it is.

`flock` belongs to the open file, so it ends with the process however that dies. No child keeps
it: the descriptor closes on exec, and a forked copy of the process closes its own at once.
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

# Somebody who only asks "is it held?" or publishes a leftover holds the lock for a moment; a run
# must not give up because of that.
_GLANCE_S = 0.4
_SHORT_COMMAND_S = 60.0
_POLL_S = 0.05

# A link is not followed, a pipe is not waited for, no child inherits it.
_SAFELY = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_DETAILS = ("host", "run_id", "since", "manifest")
_MAX_DETAILS = 65_536
_MAX_SHOWN = 1_000

_held: "set[FileLock]" = set()
_fork_hook_set = False


class FileLock:
    """An exclusive lock on one file. Released by `release`, by leaving `with`, or by dying."""

    def __init__(self, path: Path, *, for_all: bool = False) -> None:
        """`for_all`: other users have to lock the same file, whatever this one's umask is."""
        self.path = path
        self._for_all = for_all
        self._fd: int | None = None

    @property
    def held(self) -> bool:
        return self._fd is not None

    def acquire(self, holder: LockHolder, *, patience_s: float = _GLANCE_S) -> "FileLock":
        """Takes the lock and writes `holder` into it.

        Waits up to `patience_s`; when the holder is a command without a run (it publishes what a
        run left behind, then goes), up to a minute. Raises LockedError with the holder's details.
        """
        if self._fd is not None:
            raise RuntimeError(f"{self.path} is already held by this object")
        fd = self._open()
        try:
            if not _wait_for(fd, self.path, patience_s):
                raise _locked_error(self.path)
        except BaseException:  # a signal ends the waiting, too
            os.close(fd)
            raise
        self._fd = fd
        _close_after_fork(self)
        _write_holder(fd, holder)
        return self

    def update(self, holder: LockHolder) -> None:
        """Rewrites the details, for example once the run has an id."""
        if self._fd is None:
            raise RuntimeError(f"{self.path} is not held")
        _write_holder(self._fd, holder)

    def release(self) -> None:
        """Gives the lock back; the file stays (removing it would let two holders in)."""
        fd, self._fd = self._fd, None
        _held.discard(self)
        if fd is None:
            return
        try:
            os.ftruncate(fd, 0)
        except OSError:
            pass  # the details are only for messages; the lock itself ends with the descriptor
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
        """Linux lets nobody open another user's file in the temporary folder with O_CREAT."""
        try:
            fd = os.open(self.path, os.O_RDWR | _SAFELY)
        except FileNotFoundError:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | _SAFELY, 0o666)
            if self._for_all:
                with contextlib.suppress(OSError):  # somebody else was quicker
                    os.fchmod(fd, 0o666)
        except PermissionError:
            if not self._for_all:  # who may not write beside a store cannot run it
                raise
            fd = os.open(self.path, os.O_RDONLY | _SAFELY)  # enough to lock it
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise OSError(errno.EINVAL, "it is no regular file")
        return fd

    def _forget(self) -> None:
        """In a forked child: let go of the inherited descriptor, which leaves the parent's lock."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def read_holder(path: Path) -> LockHolder | None:
    """Who holds the lock now; None when nobody does (also when the last holder was killed)."""
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
    """Tries until the lock is ours or patience ends."""
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
    # The lock of a store lies in its journal folder, which no user has heard of.
    held = path.parent.with_suffix("") if path.parent.suffix == ".journal" else path
    return LockedError(
        f"another run holds {held}: {', '.join(parts)}",
        holder=holder,
        hint="wait for it, or use --if-locked skip or --if-locked wait=30m",
    )


def _read_details(path: Path) -> LockHolder:
    """What the holder wrote. In a folder of all users it may be anything: it is shown on a line."""
    try:
        fd = os.open(path, os.O_RDONLY | _SAFELY)
        try:
            details = json.loads(os.read(fd, _MAX_DETAILS))
        finally:
            os.close(fd)
        host, run_id, since, manifest = (_one_line(details.get(name, "")) for name in _DETAILS)
        pid = int(details["pid"])
        if host == socket.gethostname() and not _is_alive(pid):
            return LockHolder(pid=0)  # of the one before: who holds it now could not write there
        return LockHolder(pid, host, run_id, since, manifest)
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return LockHolder(pid=0)  # held, but its details are not written yet


def _one_line(value: object) -> str:
    text = str(value)[:_MAX_SHOWN]
    return "".join(char if char.isprintable() else " " for char in text)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError, ValueError):
        pass  # another user's
    return True


def _write_holder(fd: int, holder: LockHolder) -> None:
    data = json.dumps(asdict(holder)).encode()
    try:
        os.ftruncate(fd, 0)
        os.pwrite(fd, data, 0)
    except OSError:
        return  # a full disk must not keep a run from its lock


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
