"""Conditions that stop a run early: deadline, time budget, signals.

A deadline is a moment of the wall clock, also for a machine that was suspended until after it. A
time budget is time in which the run holds the store and the machine is awake.
"""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from types import FrameType

from thothy_batch.runner.entries.deadlines import ends_at

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_ALARM = signal.SIGUSR2  # sent to this process itself
_LOOK_S = 1.0  # between two looks at the clocks while nothing else looks


class StopNow(BaseException):  # noqa: N818  (not an error: the user asked for it)
    """Raised by a signal while nothing can be drained: reading the input, loading the model."""


class StopConditions:
    """The conditions of a run. The first signal stops admission, the second skips the grace too."""

    def __init__(self, *, deadline: datetime | None, time_budget_s: float | None) -> None:
        """The time budget counts from `start_budget`."""
        self._deadline = None if deadline is None else deadline.timestamp()
        self._time_budget_s = time_budget_s
        self._budget_end: float | None = None  # by time.monotonic()
        self._signal = ""
        self._num_signals = 0
        self._interruptible = False
        self._expired = False  # the time ended inside `interruptible`
        self._is_watching = False

    def start_budget(self) -> None:
        """Count the time budget from now."""
        if self._time_budget_s is not None:
            self._budget_end = time.monotonic() + self._time_budget_s

    @property
    def reason(self) -> str:
        """The condition that is met: 'deadline', 'time_budget', 'signal', or '' to go on."""
        if self._signal:
            return "signal"
        end = self.next_end
        return end[1] if end is not None and time.monotonic() >= end[0] else ""

    @property
    def time_left_s(self) -> float | None:
        """Seconds until the deadline or the end of the budget; None: no limit."""
        end = self.next_end
        return None if end is None else end[0] - time.monotonic()

    @property
    def next_end(self) -> tuple[float, str] | None:
        """time.monotonic() of the deadline or the end of the budget, and its name; None: no
        limit. That of a deadline moves where the machine sleeps or its clock is set."""
        ends: list[tuple[float, str]] = []
        if self._deadline is not None:
            ends.append((ends_at(self._deadline), "deadline"))
        if self._budget_end is not None:
            ends.append((self._budget_end, "time_budget"))
        return min(ends, default=None)

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
        ended = threading.Event()
        alarm = self._start_alarm(ended)
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
            ended.set()
            if alarm is not None:
                alarm.join()
        if self._signal or self._expired:
            raise StopNow  # it was swallowed where it was raised

    def _start_alarm(self, ended: threading.Event) -> threading.Thread | None:
        """A thread that interrupts the main one when the time ends before `ended` is set. Where it
        has ended already, the run's loop sees it, which records every entry as not run."""
        left_s, main = self.time_left_s, threading.main_thread().ident
        if left_s is None or left_s <= 0 or not self._is_watching or main is None:
            return None
        alarm = threading.Thread(target=self._watch_time, args=(ended, main), daemon=True)
        alarm.start()
        return alarm

    def _watch_time(self, ended: threading.Event, main: int) -> None:
        """Look once a second: a wait for all of it would stand still while the machine sleeps."""
        while (left_s := self.time_left_s) is not None and left_s > 0:
            if ended.wait(min(left_s, _LOOK_S)):
                return
        signal.pthread_kill(main, _ALARM)

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
