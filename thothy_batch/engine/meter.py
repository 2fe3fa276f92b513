"""Counts tokens and seconds of an engine: totals since ready, and a sample about once a second."""

from thothy_batch.engine.scheduler import Scheduler, Span
from thothy_batch.records import EngineTotals, StepSample

SAMPLE_EVERY_S = 1.0


class Meter:
    """Filled by the engine's loop, emptied by whoever reports."""

    def __init__(self) -> None:
        self._engine_s = 0.0
        self._prefill = self._decode = self._cached = self._output = self._wasted = 0
        self._steps = self._preempted = 0
        self._samples: list[StepSample] = []
        self._reset_window(0.0)

    def _reset_window(self, now: float) -> None:
        self._window_start = now
        self._window_prefill, self._window_decode = self._prefill, self._decode
        self._window_steps, self._window_preempted = self._steps, self._preempted
        self._window_busy_s = 0.0

    def add_row(self, num_tokens: int, prefill: int, wasted: int, num_draws: int) -> None:
        """Tokens that one row of a step computed, prompt tokens and wasted ones among them."""
        self._prefill += prefill
        self._decode += num_tokens - prefill
        self._wasted += wasted
        self._output += num_draws

    def add_cached(self, num_tokens: int) -> None:
        self._cached += num_tokens

    def add_step(self, span: Span, scheduler: Scheduler, now: float, step_s: float) -> None:
        """`now` in seconds since ready."""
        self._steps += 1
        self._preempted += span.num_preempted
        self._engine_s = now
        self._window_busy_s += step_s
        if now - self._window_start >= SAMPLE_EVERY_S:
            self._close_window(scheduler, now)

    def _close_window(self, scheduler: Scheduler, now: float) -> None:
        steps = self._steps - self._window_steps
        if not steps:
            return
        self._samples.append(
            StepSample(
                at_s=round(now, 3),
                num_running=len(scheduler.running),
                num_waiting=len(scheduler.waiting),
                prefill_tokens=self._prefill - self._window_prefill,
                decode_tokens=self._decode - self._window_decode,
                blocks_used=scheduler.blocks.num_used,
                blocks_total=scheduler.blocks.num_blocks,
                step_s=self._window_busy_s / steps,
                num_preempted=self._preempted - self._window_preempted,
            )
        )
        self._reset_window(now)

    def flush(self, scheduler: Scheduler) -> None:
        """Close the last, shorter second when the engine goes idle."""
        self._close_window(scheduler, self._engine_s)

    def take_samples(self) -> list[StepSample]:
        samples, self._samples = self._samples, []
        return samples

    def totals(self) -> EngineTotals:
        return EngineTotals(
            engine_s=self._engine_s,
            prefill_tokens=self._prefill,
            cached_prompt_tokens=self._cached,
            output_tokens=self._output,
            wasted_tokens=self._wasted,
            num_preempted=self._preempted,
            num_steps=self._steps,
        )
