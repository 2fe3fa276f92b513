"""What the engine has done: sums since it was ready, and about one sample a second."""

from dataclasses import dataclass, field

from thothy_batch.engine.scheduling.scheduled_batch import StepStats
from thothy_batch.records import EngineTotals, StepSample

SAMPLE_S = 1.0


@dataclass(slots=True)
class PoolState:
    """How full queues and pool are at a moment."""

    num_running: int
    num_waiting: int
    blocks_used: int
    blocks_total: int


@dataclass(slots=True)
class EngineStats:
    """Adds up committed steps. Times in seconds since engine ready."""

    totals: EngineTotals = field(default_factory=EngineTotals)
    _samples: list[StepSample] = field(default_factory=list)
    _since: float = 0.0
    _num_steps: int = 0
    _busy_s: float = 0.0
    _busy_until: float = 0.0
    _prefill: int = 0
    _decode: int = 0
    _preempted: int = 0

    def add(self, outcome: StepStats, state: PoolState, started_at: float, now: float) -> float:
        """Count steps that ran from `started_at`, or the end of those before, to `now`. Returns
        their seconds."""
        totals, rejected = self.totals, outcome.drafted_tokens - outcome.accepted_tokens
        useless = outcome.recomputed_tokens + outcome.overrun_tokens + rejected
        self.totals = EngineTotals(
            engine_s=now if outcome.output_tokens else totals.engine_s,
            prefill_tokens=totals.prefill_tokens + outcome.prefill_tokens,
            cached_prompt_tokens=totals.cached_prompt_tokens + outcome.cached_tokens,
            output_tokens=totals.output_tokens + outcome.output_tokens,
            wasted_tokens=totals.wasted_tokens + useless,
            num_preempted=totals.num_preempted + outcome.num_preempted,
            num_steps=totals.num_steps + outcome.num_steps,
            drafted_tokens=totals.drafted_tokens + outcome.drafted_tokens,
            accepted_tokens=totals.accepted_tokens + outcome.accepted_tokens,
        )
        self._num_steps += outcome.num_steps
        # Launches overlap; time counts once.
        seconds = now - max(started_at, self._busy_until)
        self._busy_s += seconds
        self._busy_until = now
        # Tokens of no use were work of this second like any other.
        self._prefill += outcome.prefill_tokens + outcome.recomputed_tokens
        self._decode += outcome.decode_tokens + outcome.overrun_tokens + rejected
        self._preempted += outcome.num_preempted
        if now - self._since >= SAMPLE_S:
            self._close_sample(state, now)
        return seconds

    def flush(self, state: PoolState, now: float) -> None:
        """Close the sample under way, if it holds any step: the engine falls idle."""
        if self._num_steps:
            self._close_sample(state, now)

    def take_samples(self) -> list[StepSample]:
        """The samples since the last call."""
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
        self._since, self._busy_s = now, 0.0
        self._num_steps = self._prefill = self._decode = self._preempted = 0
