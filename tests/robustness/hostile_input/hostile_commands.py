"""The command line as a user has it: in this process, as a job of cron, and on a terminal."""

import contextlib
import errno
import io
import os
import pty
import subprocess
import sys
import time
import tty
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from thothy_batch.cli.main import main


@dataclass(frozen=True)
class Said:
    """The outcome of a command, and all that it said."""

    code: int
    out: str
    err: str = ""
    seconds: float = 0.0
    peak_mib: float = 0.0  # where it was watched


class _Terminal(io.StringIO):
    """Takes the program for its word: for a log it would leave colours out."""

    def isatty(self) -> bool:
        return True


def command(*words: object) -> Said:
    """A command in this process, which believes that it has a terminal."""
    return _called(_Terminal(), _Terminal(), words)


def piped(*words: object) -> Said:
    """A command in this process, which writes into a pipe."""
    return _called(io.StringIO(), io.StringIO(), words)


def _called(out: io.StringIO, err: io.StringIO, words: Sequence[object]) -> Said:
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main([str(word) for word in words])
        except SystemExit as end:
            code = end.code
    assert isinstance(code, int)
    return Said(code, out.getvalue(), err.getvalue())


def in_log(folder: Path, *words: object) -> Said:
    """A command in a process of its own, with no terminal."""
    start = time.monotonic()
    done = subprocess.run(line(words), cwd=folder, capture_output=True, stdin=subprocess.DEVNULL)
    texts = [data.decode("utf-8", "surrogateescape") for data in (done.stdout, done.stderr)]
    return Said(done.returncode, *texts, seconds=time.monotonic() - start)


def on_terminal(folder: Path, *words: object) -> Said:
    """A command in a process of its own, on a terminal; what it wrote is all in `out`."""
    ours, theirs = pty.openpty()
    tty.setraw(theirs)  # or the terminal itself would add carriage returns
    env = os.environ | {"TERM": "xterm-256color", "COLUMNS": "120", "LINES": "40"}
    start = time.monotonic()
    process = subprocess.Popen(line(words), cwd=folder, stdout=theirs, stderr=theirs, env=env)
    os.close(theirs)
    written = _read_all(ours)
    os.close(ours)
    code = process.wait()
    text = written.decode("utf-8", "surrogateescape")
    return Said(code, text, seconds=time.monotonic() - start)


def line(words: Sequence[object]) -> list[str]:
    """The command as a process."""
    return [sys.executable, "-m", "thothy_batch", *map(str, words)]


def _read_all(descriptor: int) -> bytes:
    parts = []
    while True:
        try:
            part = os.read(descriptor, 65536)
        except OSError as error:
            if error.errno != errno.EIO:  # how Linux says that nobody can write any more
                raise
            part = b""
        if not part:
            return b"".join(parts)
        parts.append(part)
