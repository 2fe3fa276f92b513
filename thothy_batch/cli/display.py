"""Shows a run as it goes: a live display on a terminal, a plain line every 30 s in a log."""

import sys
import threading
import time
from typing import Protocol, Self

from thothy_batch.logs import logged_run_id
from thothy_batch.report import duration, escape_controls
from thothy_batch.runner.monitoring import Observer, Silent, Snapshot

_LINE_EVERY_S = 30.0
_LEAST_WAIT_S = 0.5


class Phase:
    """The present phase of a run, and since when. Its text is `what: how far` or `what`."""

    def __init__(self) -> None:
        self.text = ""
        self._since = time.monotonic()

    def begin_or_advance(self, text: str) -> bool:
        """Take the new text. True where another phase begins with it."""
        is_new = text.partition(":")[0] != self.text.partition(":")[0]
        if is_new:
            self._since = time.monotonic()
        self.text = text
        return is_new

    def line(self) -> str:
        """The text, with the seconds that the phase has taken so far."""
        return f"{self.text} ({duration(time.monotonic() - self._since)})"


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
    """Writes plain lines to stderr, few enough for a log: date, time, run, and what goes on.

    A phase is written when it begins, then every `every_s` with how far it is. A thread of its own
    does that, for phases that say nothing while they last.
    """

    def __init__(self, every_s: float = _LINE_EVERY_S) -> None:
        self._every_s = every_s
        self._next = time.monotonic() + every_s
        self._phase = Phase()
        self._snapshot: Snapshot | None = None
        self._lock = threading.RLock()  # of all the above; a signal may interrupt its holder
        self._over = threading.Event()

    def __enter__(self) -> Self:
        threading.Thread(target=self._watch, name="heartbeat", daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def phase(self, text: str) -> None:
        with self._lock:
            is_new = self._phase.begin_or_advance(text)
            if is_new or time.monotonic() >= self._next:
                self._snapshot = None
                self._write(text if is_new else self._phase.line())

    def note(self, text: str) -> None:
        with self._lock:
            self._write(text)

    def progress(self, snapshot: Snapshot) -> None:
        with self._lock:
            self._snapshot = snapshot
            self.beat()

    def beat(self) -> None:
        """Write how far the present phase is, where nothing was written for long."""
        with self._lock:
            if time.monotonic() < self._next:
                return
            if self._snapshot is None:
                if self._phase.text:
                    self._write(self._phase.line())
                return
            # Imported late: rich takes 50 ms, and no --json command of less than 30 s needs it.
            from thothy_batch.cli.render_run import progress_line

            self._write(progress_line(self._snapshot))

    def close(self) -> None:
        self._over.set()

    def _watch(self) -> None:
        while not self._over.wait(max(_LEAST_WAIT_S, self._next - time.monotonic())):
            self.beat()

    def _write(self, text: str) -> None:
        self._next = time.monotonic() + self._every_s
        place = " ".join(filter(None, (time.strftime("%Y-%m-%d %H:%M:%S"), logged_run_id())))
        print(f"{place} {escape_controls(text)}", file=sys.stderr, flush=True)


def choose_display(*, quiet: bool) -> Display:
    """The display that fits stderr: none, a terminal or a log."""
    if quiet:
        return QuietDisplay()
    if sys.stderr.isatty():
        # Imported late: only a terminal needs it.
        from thothy_batch.cli.live import LiveDisplay

        return LiveDisplay()
    return LineDisplay()
