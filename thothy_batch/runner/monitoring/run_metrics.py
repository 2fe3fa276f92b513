"""Counts of a run for its metrics file, and when that file is written."""

import logging
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from thothy_batch.process import replace_file
from thothy_batch.records import EngineTotals, FailureCode

_log = logging.getLogger(__name__)
# Upper bounds in seconds. A short job is done in a minute; the last request of a long run waits
# for hours.
DELAY_BOUNDS = (1, 5, 15, 60, 300, 900, 1800, 3600, 7200, 14_400, 28_800)
_ENDED_BY_ITSELF = (0, 1)  # exit codes of a run that computed all it could


@dataclass(slots=True)
class RunMetrics:
    """Counts from the start of a run. `path` None: no file is asked for."""

    path: Path | None = None
    totals: EngineTotals = field(default_factory=EngineTotals)
    failures: Counter[FailureCode] = field(default_factory=Counter)  # rows of `failures`
    num_restarts: int = 0  # engines that died or hung and were replaced
    delays: list[int] = field(default_factory=lambda: [0] * (len(DELAY_BOUNDS) + 1))
    delay_sum_s: float = 0.0
    last_success: float | None = None  # Unix time at which a run last ended by itself

    def __post_init__(self) -> None:
        if self.path is not None:
            # Late, here and below: the client library takes 100 ms to import, and few runs have
            # such a file.
            from thothy_batch.runner.monitoring.prometheus import earlier_success

            self.last_success = earlier_success(self.path)

    def observe_queue_delay(self, seconds: float) -> None:
        """Counts a computed request by its `queue_s`."""
        self.delays[bisect_left(DELAY_BOUNDS, seconds)] += 1
        self.delay_sum_s += seconds

    def write(self, status: Mapping[str, object]) -> bool:
        """Replaces the file as a whole, with what the status file has and what is counted here.
        False if it cannot be written, which stops no run."""
        if self.path is None:
            return True
        if self.path.exists() and not self.path.is_file():
            return False
        from thothy_batch.runner.monitoring.prometheus import exposition

        if status.get("state") == "finished" and status.get("exit_code") in _ENDED_BY_ITSELF:
            self.last_success = round(time.time(), 3)
        try:
            replace_file(self.path, exposition(self, status), durable=False)
        except OSError as error:
            _log.warning("%s cannot be written: %s", self.path, error.strerror)
            return False
        return True
