"""A run on the screen: a live display on a terminal, a plain line every 30 s in a log."""

import sys
import time
from typing import Protocol, Self

from thothy_batch.cli.output import shown
from thothy_batch.cli.render_run import progress_line
from thothy_batch.runner.monitoring.progress import Observer, Silent, Snapshot

_LINE_EVERY_S = 30.0


class Display(Observer, Protocol):
    """An observer that is there for the length of a `with` block."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...


class QuietDisplay(Silent):
    """Shows nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class LineDisplay:
    """For logs: lines of plain text on stderr, few enough to keep."""

    def __init__(self, every_s: float = _LINE_EVERY_S) -> None:
        self._every_s = every_s
        self._next = time.monotonic() + every_s
        self._phase = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def phase(self, text: str) -> None:
        head = text.partition(":")[0]
        if head != self._phase or time.monotonic() >= self._next:
            self._phase = head
            self._write(text)

    def note(self, text: str) -> None:
        self._write(text)

    def progress(self, snapshot: Snapshot) -> None:
        if time.monotonic() >= self._next:
            self._write(progress_line(snapshot))

    def close(self) -> None:
        """Nothing is open."""

    def _write(self, text: str) -> None:
        self._next = time.monotonic() + self._every_s
        print(f"{time.strftime('%H:%M:%S')} {shown(text)}", file=sys.stderr, flush=True)


def choose_display(*, quiet: bool) -> Display:
    """The display that fits where stderr goes."""
    if quiet:
        return QuietDisplay()
    if sys.stderr.isatty():
        # Late: rich is imported only where there is a terminal to draw on.
        from thothy_batch.cli.live import LiveDisplay

        return LiveDisplay()
    return LineDisplay()
