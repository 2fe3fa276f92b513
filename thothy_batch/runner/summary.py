"""How a run ended, for the screen, for `--json` and for the exit code."""

from dataclasses import dataclass, field
from pathlib import Path

from thothy_batch.errors import ThothyError
from thothy_batch.runner.accounting import Account


@dataclass(slots=True)
class RunSummary:
    """The end of a run. `error`: what ended it, where it did not end by itself."""

    store: Path
    run_id: str = ""
    status: str = "completed"  # completed | stopped | failed | skipped
    stop_reason: str = ""
    exit_code: int = 0
    # Zeros until the entries are counted: whenever a run stops, its document has the same keys.
    counts: dict[str, int] = field(default_factory=lambda: Account([]).as_json())
    jobs: list[dict[str, object]] = field(default_factory=list)
    model: str = ""
    prompt_tokens: int = 0
    cached_prompt_tokens: int = 0
    output_tokens: int = 0
    wasted_tokens: int = 0
    load_s: float = 0.0
    engine_s: float = 0.0
    wall_s: float = 0.0
    unavoidable_s: float | None = None
    published: bool = True
    messages: list[str] = field(default_factory=list)
    error: ThothyError | None = None

    @property
    def output_tokens_per_s(self) -> float | None:
        return round(self.output_tokens / self.engine_s, 1) if self.engine_s else None

    @property
    def roofline_fraction(self) -> float | None:
        """Of the engine's time, the share that its work needs at this device's limits."""
        if self.unavoidable_s is None or not self.engine_s:
            return None
        return round(self.unavoidable_s / self.engine_s, 4)

    @property
    def artifacts_per_hour(self) -> float | None:
        return round(self.counts["num_done"] * 3600 / self.engine_s, 1) if self.engine_s else None

    def as_json(self) -> dict[str, object]:
        """The document of `run --json`."""
        plain = ("run_id", "status", "stop_reason", "exit_code")
        tokens = ("prompt_tokens", "cached_prompt_tokens", "output_tokens", "wasted_tokens")
        seconds = ("load_s", "engine_s", "wall_s")
        document: dict[str, object] = {name: getattr(self, name) for name in plain}
        document |= {"store": str(self.store), "model": self.model, **self.counts}
        document |= {name: getattr(self, name) for name in tokens}
        document |= {name: round(getattr(self, name), 3) for name in seconds}
        document |= {
            "output_tokens_per_s": self.output_tokens_per_s,
            "artifacts_per_hour": self.artifacts_per_hour,
            "roofline_fraction": self.roofline_fraction,
            "published": self.published,
            "jobs": self.jobs,
            "messages": self.messages,
        }
        if self.error is not None:
            document["error"] = self.error.as_json()
        return document
