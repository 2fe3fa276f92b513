"""A clock that goes on only while the process sleeps: a night of hours takes a moment."""

import os
import threading
import time

_monotonic, _sleep = time.monotonic, time.sleep


class VirtualClock:
    """Stands in for `time.monotonic` and `time.sleep`. Threads beside the main one, and processes
    that are forked, sleep truly."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self._pid = os.getpid()

    def monotonic(self) -> float:
        return self.now if os.getpid() == self._pid else _monotonic()

    def sleep(self, seconds: float) -> None:
        if os.getpid() == self._pid and threading.current_thread() is threading.main_thread():
            self.now += seconds
        else:
            _sleep(seconds)
