"""Decides when the next engine is started, and when no further one is."""

import time
from collections.abc import Callable

from thothy_batch.errors import EngineError

_MAX_FAILED_STARTS = 5
_FIRST_PAUSE_S = 2.0  # before a start that follows a failed one; doubled each time
# Deaths in a row with no result in between. Finding one culprit among n takes log2(n).
_MAX_FRUITLESS = 40


class RestartPolicy:
    """Counts failed starts and deaths in a row. `fatal`: the error that ends the run."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._num_failed_starts = 0
        self._num_fruitless = 0
        self._start_at = 0.0  # by `clock`
        self.fatal: EngineError | None = None

    @property
    def pause_s(self) -> float:
        """Seconds until an engine may be started; 0 or less: now."""
        return self._start_at - self._clock()

    def failed_to_start(self, error: EngineError) -> None:
        """An engine died before it was ready. The next start waits; the fifth in a row, and any
        that the model is to blame for, is fatal."""
        self._num_failed_starts += 1
        if self._num_failed_starts >= _MAX_FAILED_STARTS or error.cause == "model":
            self.fatal = error
        self._start_at = self._clock() + _FIRST_PAUSE_S * 2 ** (self._num_failed_starts - 1)

    def died(self, error: EngineError) -> None:
        """An engine died at work. Fatal after too many in a row without a result."""
        self._num_fruitless += 1
        if self._num_fruitless > _MAX_FRUITLESS:
            self.fatal = error

    def started(self) -> None:
        """An engine is ready."""
        self._num_failed_starts = 0

    def made_progress(self) -> None:
        """An engine produced a result."""
        self._num_fruitless = 0
