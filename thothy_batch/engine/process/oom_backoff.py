"""The most tokens of a step: halved each time an engine runs out of memory, and doubled again after
a long time without that."""

import time
from collections.abc import Callable

_LEAST_TOKENS = 64
_FIRST_PAUSE_S = 300.0  # until more is tried; twice as long after every further death
_LONGEST_PAUSE_S = 7200.0


class OomBackoff:
    """`most`: what the engine's settings allow."""

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = self.max_step_tokens = most
        self._clock = clock
        self._pause_s = _FIRST_PAUSE_S / 2
        self._since = clock()

    @property
    def is_reduced(self) -> bool:
        return self.max_step_tokens < self._most

    def halve(self, least: int) -> bool:
        """Halve after an engine ran out of memory. False where steps are too small for that;
        `least`: samples of one request, which are drawn in one step."""
        if self.max_step_tokens // 2 < max(_LEAST_TOKENS, least):
            return False
        self.max_step_tokens //= 2
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
        self._since = self._clock()
        return True

    def restarted(self, most: int) -> None:
        """An engine is ready: the time before it says nothing about memory. `most`: what its
        settings allow, less than before where it was started with smaller steps."""
        self._most = min(self._most, most)
        self._since = self._clock()

    def recover(self) -> bool:
        """Double where that is due; True where it was."""
        if not self.is_reduced or self._clock() - self._since < self._pause_s:
            return False
        self.max_step_tokens = min(2 * self.max_step_tokens, self._most)
        self._since = self._clock()
        return True
