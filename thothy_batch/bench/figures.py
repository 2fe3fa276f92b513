"""The figures of a benchmark. Counts are of the requests that were run; times in seconds."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from thothy_batch.bench.workload import Refusal

# Properties of BenchFigures that its document has beside the fields.
DERIVED = (
    *("num_requests", "num_refused", "output_tokens_per_s", "total_tokens_per_s"),
    *("requests_per_s", "artifacts_per_hour", "roofline_fraction"),
)


@dataclass(frozen=True, slots=True)
class BenchFigures:
    """One run of a workload. Rates are None where no request was run."""

    workload: str
    model: str
    num_done: int
    refused: tuple[Refusal, ...]  # requests that could not be run
    prompt_tokens: int
    cached_prompt_tokens: int  # shared, so not computed again
    prefill_tokens: int  # prompt tokens computed
    planned_prompt_tokens: int | None  # by the plan; None: it depends on evictions
    output_tokens: int
    wasted_tokens: int
    drafted_tokens: int  # drafted and verified, see engine.speculation
    accepted_tokens: int  # of the drafted ones
    num_preempted: int
    num_steps: int
    # Weights, pool, compiling, warm-up; and measuring the device where it was not measured yet.
    load_s: float
    plan_s: float
    engine_s: float  # from the first submission to the last token
    roofline_s: float | None  # needed at the device's limits; None: not known
    busy_fraction: float | None  # share of engine_s in which the device computed; None: not known
    peak_memory_bytes: int  # resident on the CPU, allocated on a GPU; loading included
    device: str
    device_name: str
    impl: str
    dtype: str
    quantization: str  # of the linear layers
    order: str
    seed: int
    engine: Mapping[str, object]  # every resolved setting
    versions: Mapping[str, str]
    notes: tuple[str, ...]  # of the engine, for the user
    commit: str | None  # of the checkout that this ran from; None: no checkout
    measured_at: str  # ISO 8601

    @property
    def num_refused(self) -> int:
        return len(self.refused)

    @property
    def num_requests(self) -> int:
        return self.num_done + self.num_refused

    @property
    def output_tokens_per_s(self) -> float | None:
        return self._rate(self.output_tokens)

    @property
    def total_tokens_per_s(self) -> float | None:
        """Prompt tokens count in full, shared or not."""
        return self._rate(self.prompt_tokens + self.output_tokens)

    @property
    def requests_per_s(self) -> float | None:
        return self._rate(self.num_done)

    @property
    def artifacts_per_hour(self) -> float | None:
        """Artifacts an hour of this one device: on a GPU, per GPU hour."""
        rate = self.requests_per_s
        return None if rate is None else 3600 * rate

    @property
    def roofline_fraction(self) -> float | None:
        if self.roofline_s is None or not self.engine_s:
            return None
        return self.roofline_s / self.engine_s

    def as_json(self) -> dict[str, Any]:
        """The document of `bench --json`: every field and the derived figures."""
        values = {**asdict(self), **{name: getattr(self, name) for name in DERIVED}}
        return {name: _rounded(value) for name, value in values.items()}

    def _rate(self, count: int) -> float | None:
        return count / self.engine_s if self.num_done and self.engine_s else None


def _rounded(value: object) -> object:
    """Rounds to six significant figures: no clock is better."""
    return float(f"{value:.6g}") if isinstance(value, float) else value
