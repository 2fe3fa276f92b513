"""Notices an engine that computes and reports nothing."""

import time
from collections.abc import Callable

_SHOWN_S = 30.0  # of silence, after which it is shown to the user
_PAUSE = 0.25  # of stall_s, between polls: no healthy run polls so rarely


class StallWatch:
    """Measures the silence of a busy engine; `stall_s`: what is too long.

    Time counts from the latest of: its last message, its becoming busy, and the end of a pause of
    this process, in which nothing that the engine said was read.
    """

    def __init__(self, stall_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._stall_s = stall_s
        self._clock = clock
        self._since = self._polled_at = clock()

    def restart(self) -> None:
        """The engine becomes busy now."""
        self._since = self._clock()

    def before_poll(self) -> None:
        if self._clock() - self._polled_at > _PAUSE * self._stall_s:
            self.restart()

    def after_poll(self) -> None:
        self._polled_at = self._clock()

    def silent_s(self, heard_at: float) -> float:
        """Seconds of silence of a busy engine whose latest message was read at `heard_at`."""
        return self._clock() - max(heard_at, self._since)

    def is_stalled(self, silent_s: float) -> bool:
        """True where the engine is to be restarted."""
        return silent_s > 0 and silent_s >= self._stall_s

    def is_shown(self, silent_s: float) -> bool:
        """True where the silence is worth a word to the user."""
        return silent_s >= min(_SHOWN_S, self._stall_s / 2)
