"""Engine statistics: totals since the engine was ready, and about one sample a second."""

from dataclasses import dataclass, field

from thothy_batch.engine.scheduling.scheduled_batch import StepStats
from thothy_batch.records import EngineTotals, StepSample

SAMPLE_S = 1.0


@dataclass(slots=True)
class PoolState:
    """Fill levels of queues and pool at one moment."""

    num_running: int
    num_waiting: int
    blocks_used: int
    blocks_total: int


@dataclass(slots=True)
class EngineStats:
    """Adds up committed steps. Times in seconds since engine ready."""

    totals: EngineTotals = field(default_factory=EngineTotals)
    _samples: list[StepSample] = field(default_factory=list)
    _sampled_at: float = 0.0
    # Since the last sample:
    _num_steps: int = 0
    _busy_s: float = 0.0
    _busy_until: float = 0.0
    _prefill: int = 0
    _decode: int = 0
    _preempted: int = 0

    def add(self, stats: StepStats, state: PoolState, started_at: float, now: float) -> float:
        """Count steps that ran until `now`; returns their seconds.

        They began at `started_at`, or at the end of the steps before if that is later.
        """
        totals, rejected = self.totals, stats.drafted_tokens - stats.accepted_tokens
        wasted = stats.recomputed_tokens + stats.overrun_tokens + rejected
        self.totals = EngineTotals(
            engine_s=now if stats.output_tokens else totals.engine_s,
            prefill_tokens=totals.prefill_tokens + stats.prefill_tokens,
            cached_prompt_tokens=totals.cached_prompt_tokens + stats.cached_tokens,
            output_tokens=totals.output_tokens + stats.output_tokens,
            wasted_tokens=totals.wasted_tokens + wasted,
            num_preempted=totals.num_preempted + stats.num_preempted,
            num_steps=totals.num_steps + stats.num_steps,
            drafted_tokens=totals.drafted_tokens + stats.drafted_tokens,
            accepted_tokens=totals.accepted_tokens + stats.accepted_tokens,
        )
        self._num_steps += stats.num_steps
        # Launches overlap; time counts once.
        seconds = now - max(started_at, self._busy_until)
        self._busy_s += seconds
        self._busy_until = now
        # Wasted tokens were work of this second like any other.
        self._prefill += stats.prefill_tokens + stats.recomputed_tokens
        self._decode += stats.decode_tokens + stats.overrun_tokens + rejected
        self._preempted += stats.num_preempted
        if now - self._sampled_at >= SAMPLE_S:
            self._close_sample(state, now)
        return seconds

    def flush(self, state: PoolState, now: float) -> None:
        """Close the current sample, if it holds any step: the engine becomes idle."""
        if self._num_steps:
            self._close_sample(state, now)

    def pop_samples(self) -> list[StepSample]:
        """Return the samples since the last call."""
        samples, self._samples = self._samples, []
        return samples

    def _close_sample(self, state: PoolState, now: float) -> None:
        self._samples.append(
            StepSample(
                at_s=now,
                num_running=state.num_running,
                num_waiting=state.num_waiting,
                prefill_tokens=self._prefill,
                decode_tokens=self._decode,
                blocks_used=state.blocks_used,
                blocks_total=state.blocks_total,
                step_s=self._busy_s / self._num_steps,
                num_preempted=self._preempted,
            )
        )
        self._sampled_at, self._busy_s = now, 0.0
        self._num_steps = self._prefill = self._decode = self._preempted = 0
