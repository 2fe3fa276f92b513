"""Shows a run as it goes: a live display on a terminal, a plain line every 30 s in a log."""

import sys
import time
from typing import Protocol, Self

from thothy_batch.report import escape_controls
from thothy_batch.runner.monitoring import Observer, Silent, Snapshot

_LINE_EVERY_S = 30.0


class Display(Observer, Protocol):
    """An observer that is also a context manager."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...


class QuietDisplay(Silent):
    """Shows nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class LineDisplay:
    """Writes plain lines to stderr, few enough for a log."""

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
            # Imported late: rich takes 50 ms, and no --json command of less than 30 s needs it.
            from thothy_batch.cli.render_run import progress_line

            self._write(progress_line(snapshot))

    def close(self) -> None:
        """Nothing to close."""

    def _write(self, text: str) -> None:
        self._next = time.monotonic() + self._every_s
        print(f"{time.strftime('%H:%M:%S')} {escape_controls(text)}", file=sys.stderr, flush=True)


def choose_display(*, quiet: bool) -> Display:
    """The display that fits stderr: none, a terminal or a log."""
    if quiet:
        return QuietDisplay()
    if sys.stderr.isatty():
        # Imported late: only a terminal needs it.
        from thothy_batch.cli.live import LiveDisplay

        return LiveDisplay()
    return LineDisplay()
