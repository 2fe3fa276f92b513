"""Every input, however broken, ends within seconds and with an error that says so.

Hypothesis makes the inputs; there is no coverage guidance (atheris has no wheel for this Python).
In CI the examples are few and always the same; THOTHY_FUZZ=long draws many new ones.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hypothesis import HealthCheck, settings

from thothy_batch.errors import ManifestError, ThothyError

LONG = os.environ.get("THOTHY_FUZZ") == "long"
_MORE = int(os.environ.get("THOTHY_FUZZ_MORE", "25"))  # examples of a long run per one of CI


def examples(num: int) -> settings:
    """Settings of a test: that many examples in CI, which are the same in every run."""
    return settings(
        max_examples=num * _MORE if LONG else num,
        derandomize=not LONG,
        database=None,
        deadline=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )


class HangError(BaseException):
    """Not an Exception: nothing in the product may catch it and go on."""


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Fails what computes for longer. Seconds of this process's own work: how busy the machine is
    does not count, and what only waits is left to pytest-timeout."""

    def ring(number: int, frame: object) -> None:
        raise HangError(f"not done after {seconds} s")

    old = signal.signal(signal.SIGPROF, ring)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, old)


def check_sentences(error: ThothyError) -> None:
    """Every message is text that can be shown; a line, where one is told, stands in its file."""
    assert error.message.strip()
    (error.message + error.hint).encode()
    assert "Traceback" not in error.message
    if not isinstance(error, ManifestError):
        return
    assert error.problems
    lines = {problem.path: 0 for problem in error.problems if problem.line is not None}
    lines = {path: _num_lines(Path(path)) for path in lines}
    for problem in error.problems:
        assert problem.message.strip()
        str(problem).encode()
        if problem.line is not None:
            assert 1 <= problem.line <= lines[problem.path], problem


def _num_lines(path: Path) -> int:
    """As editors count them; a fault at the end of the text is on the line after the last."""
    data = path.read_bytes().replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return data.count(b"\n") + 1
