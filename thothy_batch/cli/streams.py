"""The program's three streams, so that a lost terminal, log or reader cannot end a night."""

import errno
import io
import os
import select
import sys
from typing import TextIO

_STDOUT, _STDERR = 1, 2


class _Descriptor(io.FileIO):
    """A descriptor for writing that never refuses: what cannot be written goes nowhere."""

    def __init__(self, fd: int, errors: list[OSError]) -> None:
        super().__init__(fd, "wb", closefd=False)
        self._errors = errors

    def write(self, data: object, /) -> int:
        size = memoryview(data).nbytes  # type: ignore[arg-type]
        try:
            written = super().write(data)  # type: ignore[arg-type]
            while written is None:  # somebody else made the pipe non-blocking, and it is full
                select.select([], [self.fileno()], [], 1.0)
                written = super().write(data)  # type: ignore[arg-type]
        except OSError as error:
            if error.errno != errno.EPIPE:  # `report | head`: who read it has seen enough
                self._errors.append(error)
            return size
        return written


def open_streams() -> list[OSError]:
    """Puts streams in place that survive their readers; leaves alone those that a caller has set.

    A standard descriptor that was closed (`>&-`) is opened on the null device: the next file to
    be opened would take its number, and somebody's message would be written into that file. The
    list gets what stdout could not take, such as a full disk; what stderr could not take is
    dropped, for a log must not end a run.
    """
    refused: list[OSError] = []
    for fd in (0, _STDOUT, _STDERR):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
    if sys.stdout is sys.__stdout__:
        sys.stdout = _open(_STDOUT, sys.stdout, refused)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _open(_STDERR, sys.stderr, [])
    return refused


def _open(fd: int, old: TextIO | None, errors: list[OSError]) -> TextIO:
    return io.TextIOWrapper(
        io.BufferedWriter(_Descriptor(fd, errors)),
        encoding=old.encoding if old is not None else "utf-8",
        # A log in an old locale must not end the night over one character.
        errors="backslashreplace",
        line_buffering=fd == _STDERR or os.isatty(fd),
    )
