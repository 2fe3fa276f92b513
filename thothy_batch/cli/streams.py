"""The program's three streams, so that a lost terminal, log or reader cannot end a night."""

import errno
import io
import os
import select
import sys
from typing import TextIO

_STDOUT, _STDERR = 1, 2


class _Descriptor(io.FileIO):
    """A descriptor for writing whose reader may go away: what is written then goes nowhere."""

    def __init__(self, fd: int, *, forgive_all: bool) -> None:
        super().__init__(fd, "wb", closefd=False)
        self._forgive_all = forgive_all

    def write(self, data: object, /) -> int:
        size = memoryview(data).nbytes  # type: ignore[arg-type]
        try:
            written = super().write(data)  # type: ignore[arg-type]
            while written is None:  # somebody else made the pipe non-blocking, and it is full
                select.select([], [self.fileno()], [], 1.0)
                written = super().write(data)  # type: ignore[arg-type]
        except OSError as error:
            if self._forgive_all or error.errno == errno.EPIPE:
                return size
            raise
        return written


def open_streams() -> None:
    """Puts streams in place that survive their readers; does nothing where a caller set others.

    A standard descriptor that was closed (`>&-`) is opened on the null device: the next file to
    be opened would take its number, and somebody's message would be written into that file.
    stdout drops what nobody reads (`report | head`) and refuses the rest, such as a full disk;
    stderr drops whatever it cannot write, for a log must not end a run.
    """
    for fd in (0, _STDOUT, _STDERR):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
    if sys.stdout is sys.__stdout__:
        sys.stdout = _open(_STDOUT, sys.stdout, forgive_all=False)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _open(_STDERR, sys.stderr, forgive_all=True)


def discard_stdout() -> None:
    """Sends what is left in stdout's buffer, and what follows, nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), _STDOUT)


def _open(fd: int, old: TextIO | None, *, forgive_all: bool) -> TextIO:
    if old is not None:
        old.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_Descriptor(fd, forgive_all=forgive_all)),
        encoding=old.encoding if old is not None else "utf-8",
        # A log in an old locale must not end the night over one character.
        errors="backslashreplace",
        line_buffering=forgive_all or os.isatty(fd),
    )
