"""Standard streams that survive a lost terminal, log or reader."""

import errno
import io
import os
import select
import sys
from typing import TextIO

_STDOUT, _STDERR = 1, 2


class _Descriptor(io.FileIO):
    """Writes to a descriptor and never raises: what cannot be written is dropped."""

    def __init__(self, fd: int, errors: list[OSError]) -> None:
        super().__init__(fd, "wb", closefd=False)
        self._errors = errors

    def write(self, data: object, /) -> int:
        size = memoryview(data).nbytes  # type: ignore[arg-type]
        try:
            written = super().write(data)  # type: ignore[arg-type]
            while written is None:  # another process made the pipe non-blocking, and it is full
                select.select([], [self.fileno()], [], 1.0)
                written = super().write(data)  # type: ignore[arg-type]
        except OSError as error:
            if error.errno != errno.EPIPE:  # `report | head`: the reader has seen enough
                self._errors.append(error)
            return size
        return written


def open_streams() -> list[OSError]:
    """Replaces the standard streams, except those that a caller has replaced already.

    A standard descriptor that was closed (`>&-`) is opened on the null device: otherwise the next
    file opened would take its number, and messages would be written into that file. The returned
    list collects the errors of stdout, such as a full disk; those of stderr are dropped, because a
    log must not end a run.
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
        # One character outside the locale of a log must not end the run.
        errors="backslashreplace",
        line_buffering=fd == _STDERR or os.isatty(fd),
    )
