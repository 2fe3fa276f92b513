"""The summary of an ended run, for the screen, for `--json` and for the exit code."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from thothy_batch.errors import ThothyError
from thothy_batch.runner.session.run_document import RunDocument
from thothy_batch.runner.work.count_document import CountsDocument, JobDocument
from thothy_batch.runner.work.counts import RunCounts


@dataclass(slots=True)
class RunSummary:
    """The end of a run. `run_id` "": it has no row in the store."""

    store: Path
    run_id: str = ""
    status: Literal["completed", "stopped", "failed", "skipped"] = "completed"
    stop_reason: str = ""
    exit_code: int = 0
    counts: CountsDocument = field(default_factory=lambda: RunCounts([]).as_json())
    jobs: list[JobDocument] = field(default_factory=list)
    model: str = ""
    prompt_tokens: int = 0
    cached_prompt_tokens: int = 0
    output_tokens: int = 0
    wasted_tokens: int = 0
    load_s: float = 0.0
    engine_s: float = 0.0
    wall_s: float = 0.0
    roofline_s: float | None = None
    published: bool = True
    messages: list[str] = field(default_factory=list)
    error: ThothyError | None = None  # the error that ended the run

    @property
    def output_tokens_per_s(self) -> float | None:
        return round(self.output_tokens / self.engine_s, 1) if self.engine_s else None

    @property
    def roofline_fraction(self) -> float | None:
        """The share of engine time that the run's work needs at this device's limits."""
        if self.roofline_s is None or not self.engine_s:
            return None
        return round(self.roofline_s / self.engine_s, 4)

    @property
    def artifacts_per_hour(self) -> float | None:
        done = self.counts.get("num_done", 0)
        return round(done * 3600 / self.engine_s, 1) if self.engine_s else None

    def as_json(self) -> RunDocument:
        """The document of `run --json`."""
        document: RunDocument = {
            "run_id": self.run_id,
            "status": self.status,
            "stop_reason": self.stop_reason,
            "exit_code": self.exit_code,
            "store": str(self.store),
            "model": self.model,
            **self.counts,  # type: ignore[typeddict-item]  # holds no "error"
            "prompt_tokens": self.prompt_tokens,
            "cached_prompt_tokens": self.cached_prompt_tokens,
            "output_tokens": self.output_tokens,
            "wasted_tokens": self.wasted_tokens,
            "load_s": round(self.load_s, 3),
            "engine_s": round(self.engine_s, 3),
            "wall_s": round(self.wall_s, 3),
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
