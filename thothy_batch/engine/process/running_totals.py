"""The totals of engines that follow one another, as if they were one."""

import time
from collections.abc import Callable
from dataclasses import fields, replace

from thothy_batch.records import EngineTotals, RequestResult


class RunningTotals:
    """Sums over engines. Times are seconds since the first one was ready; what passes between two
    engines is part of them."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """The first engine is ready now."""
        self.since_s = 0.0  # when the current engine was ready
        self._clock = clock
        self._ready_at = clock()
        self._before = EngineTotals()  # of the engines that died
        self._finished_prompt = self._finished_output = 0  # tokens of the current engine's results

    def next_engine(self) -> None:
        """Another engine is ready."""
        self.since_s = self._clock() - self._ready_at

    def count(self, result: RequestResult) -> None:
        """Count a result: what was computed for it is not lost if the engine dies."""
        self._finished_prompt += result.prompt_tokens - result.cached_prompt_tokens
        self._finished_output += result.output_tokens

    def close_engine(self, last: EngineTotals) -> int:
        """The current engine died with these totals. Returns the number of tokens lost: those
        computed for requests that it has not finished."""
        repeated = max(0, last.prefill_tokens - self._finished_prompt)
        lost = repeated + max(0, last.output_tokens - self._finished_output)
        whole = self.of_run(last)
        again = whole.repeated_prompt_tokens + repeated
        self._before = replace(whole, repeated_prompt_tokens=again)
        self._finished_prompt = self._finished_output = 0
        return lost

    def of_run(self, now: EngineTotals) -> EngineTotals:
        """The run's totals, given those of the current engine."""
        summed = EngineTotals(
            *(getattr(self._before, f.name) + getattr(now, f.name) for f in fields(EngineTotals))
        )
        engine_s = self.since_s + now.engine_s if now.engine_s else self._before.engine_s
        return replace(summed, engine_s=engine_s)
