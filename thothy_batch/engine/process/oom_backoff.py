"""How many tokens a step may have: half as many after every death by lack of memory, and twice as
many again when that has gone well for long."""

import time
from collections.abc import Callable

_LEAST_TOKENS = 64
_FIRST_PAUSE_S = 300.0  # until more is tried; twice as long after every further death
_LONGEST_PAUSE_S = 7200.0


class OomBackoff:
    """`most`: what the engine's settings allow."""

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = self.now = most
        self._clock = clock
        self._pause_s = _FIRST_PAUSE_S / 2
        self._since = clock()

    @property
    def is_reduced(self) -> bool:
        return self.now < self._most

    def halve(self, least: int) -> bool:
        """Memory was short. False: steps are small already; `least`: rows of one request."""
        if self.now // 2 < max(_LEAST_TOKENS, least):
            return False
        self.now //= 2
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
        self._since = self._clock()
        return True

    def restarted(self) -> None:
        """An engine is ready: what passed before it was says nothing."""
        self._since = self._clock()

    def recover(self) -> bool:
        """Whether it is time to try larger steps again: then they are."""
        if not self.is_reduced or self._clock() - self._since < self._pause_s:
            return False
        self.now = min(2 * self.now, self._most)
        self._since = self._clock()
        return True
