"""Clocks that a test sets: none goes by how fast this machine is."""

import os
import threading
import time
from collections.abc import Callable

_monotonic, _sleep, _time = time.monotonic, time.sleep, time.time


class VirtualClock:
    """Stands in for `time.monotonic`, `time.time` and `time.sleep`, and goes on only while the
    process sleeps: a run of hours takes a moment. Threads beside the main one, and processes that
    are forked, sleep truly."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self._wall_offset = _time() - self.now
        self._pid = os.getpid()
        self._due: list[tuple[float, Callable[[], object]]] = []

    def after(self, seconds: float, action: Callable[[], object]) -> None:
        """Something that happens while the process sleeps."""
        self._due.append((self.now + seconds, action))

    def monotonic(self) -> float:
        return self.now if os.getpid() == self._pid else _monotonic()

    def time(self) -> float:
        return self.now + self._wall_offset if os.getpid() == self._pid else _time()

    def suspend(self, seconds: float) -> None:
        """The machine is suspended: the wall clock alone goes on."""
        self._wall_offset += seconds

    def sleep(self, seconds: float) -> None:
        if os.getpid() != self._pid or threading.current_thread() is not threading.main_thread():
            _sleep(seconds)
            return
        self.now += seconds
        due = [action for at, action in self._due if at <= self.now]
        self._due = [(at, action) for at, action in self._due if at > self.now]
        for action in due:
            action()


class ShiftedClock:
    """Stands in for `time.monotonic` and `time.time`: true time, and what a test adds to it."""

    def __init__(self) -> None:
        self._shift_s = self._suspended_s = 0.0

    def advance(self, seconds: float) -> None:
        self._shift_s += seconds

    def suspend(self, seconds: float) -> None:
        """The machine is suspended: the wall clock alone goes on."""
        self._suspended_s += seconds

    def monotonic(self) -> float:
        return _monotonic() + self._shift_s

    def time(self) -> float:
        return _time() + self._shift_s + self._suspended_s
