"""A clock that goes on only while somebody sleeps: a night of hours takes a moment."""

import threading
import time

_sleep = time.sleep


class VirtualClock:
    """Stands in for `time.monotonic` and `time.sleep`. Threads beside the main one sleep truly."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        if threading.current_thread() is threading.main_thread():
            self.now += seconds
        else:
            _sleep(seconds)
