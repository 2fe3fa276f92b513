"""Conditions that stop a run early: deadline, time budget, signals."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_ALARM = signal.SIGUSR2  # sent to this process itself
_LONGEST_S = 30 * 86_400.0


class StopNow(BaseException):  # noqa: N818  (not an error: the user asked for it)
    """Raised by a signal while nothing can be drained: reading the input, loading the model."""


class StopConditions:
    """The conditions of a run. The first signal stops admission, the second skips the grace too."""

    def __init__(
        self, *, deadline: datetime | None, time_budget_s: float | None, started: datetime
    ) -> None:
        self._ends: list[tuple[float, str]] = []
        if deadline is not None:
            left = (deadline - started).total_seconds()
            self._ends.append((time.monotonic() + left, "deadline"))
        if time_budget_s is not None:
            self._ends.append((time.monotonic() + time_budget_s, "time_budget"))
        self._signal = ""
        self._num_signals = 0
        self._interruptible = False
        self._expired = False  # the time ended inside `interruptible`
        self._is_watching = False

    @property
    def reason(self) -> str:
        """The condition that is met: 'deadline', 'time_budget', 'signal', or '' to go on."""
        if self._signal:
            return "signal"
        now = time.monotonic()
        return next((why for at, why in sorted(self._ends) if now >= at), "")

    @property
    def time_left_s(self) -> float | None:
        """Seconds until the deadline or the end of the budget; None: no limit."""
        return min(self._ends)[0] - time.monotonic() if self._ends else None

    @property
    def next_end(self) -> tuple[float, str] | None:
        """time.monotonic() of the deadline or the end of the budget, and its name; None: no
        limit."""
        return min(self._ends, default=None)

    @property
    def signal_name(self) -> str:
        return self._signal

    @property
    def at_once(self) -> bool:
        """True after a second signal: publish and exit without waiting for running requests."""
        return self._num_signals > 1

    @contextmanager
    def watching(self) -> Iterator["StopConditions"]:
        """Handle the signals inside the block. Outside the main thread none are handled."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        previous = {}
        for number in _SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:  # nohup keeps SIGHUP ignored
                previous[number] = signal.signal(number, self._receive)
        previous[_ALARM] = signal.signal(_ALARM, self._expire)
        self._is_watching = True
        try:
            yield self
        finally:
            self._is_watching = False
            for number, handler in previous.items():
                signal.signal(number, handler)

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Inside the block a signal or the end of the time raises StopNow at once. A signal that
        came before the block raises it on entry."""
        alarm = self._alarm()
        try:
            self._interruptible = True
            if self._signal:
                raise StopNow
            yield
        except Exception as error:
            # Some libraries wrap StopNow in an error of their own: DuckDB in a RuntimeError.
            if not self._signal and not self._expired:
                raise
            raise StopNow from error
        finally:
            self._interruptible = False
            if alarm is not None:
                alarm.cancel()
                alarm.join()
        if self._signal or self._expired:
            raise StopNow  # it was swallowed where it was raised

    def _alarm(self) -> threading.Timer | None:
        """A timer that interrupts the main thread when the time ends. Where it has ended already,
        the run's loop sees it, which records every entry as not run."""
        left_s, main = self.time_left_s, threading.main_thread().ident
        if left_s is None or left_s <= 0 or not self._is_watching or main is None:
            return None
        timer = threading.Timer(min(left_s, _LONGEST_S), signal.pthread_kill, (main, _ALARM))
        timer.daemon = True
        timer.start()
        return timer

    def _expire(self, number: int, frame: FrameType | None) -> None:
        if self._interruptible and self.reason:
            self._interruptible, self._expired = False, True
            raise StopNow

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._signal = signal.Signals(number).name
        self._num_signals += 1
        if self._interruptible:
            self._interruptible = False
            raise StopNow
