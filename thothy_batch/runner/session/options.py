"""Options of the commands `run` and `plan`, and the time limits that follow from them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from thothy_batch.engine.protocol import EngineClient
from thothy_batch.engine.start import start_supervised
from thothy_batch.errors import ManifestError
from thothy_batch.manifest import Manifest, Overrides, parse_deadline, parse_duration

# Starts an engine; the output of a child process is appended to `log_path`, and `on_phase` is told
# what is done until it is ready.
StartEngine = Callable[..., EngineClient]


@dataclass(frozen=True, slots=True)
class IfLocked:
    """The reaction to a store that another run holds: fail | skip | wait."""

    action: str = "fail"
    wait_s: float = 0.0

    @classmethod
    def parse(cls, text: str) -> "IfLocked":
        """Parse `fail`, `skip` or `wait=30m`. Raises ManifestError (bad usage)."""
        action, _, length = text.partition("=")
        if action in ("fail", "skip") and not length:
            return cls(action)
        if action == "wait" and length:
            try:
                return cls("wait", parse_duration(length))
            except ValueError as error:
                raise ManifestError(f"--if-locked {text}: {error}") from None
        raise ManifestError(
            f"--if-locked {text}: unknown", hint="use fail, skip or wait=30m (90s, 30m, 5h)"
        )


@dataclass(frozen=True, slots=True)
class RunOptions:
    """A manifest and the options of `run`; `plan` uses the first two."""

    manifest: Path
    overrides: Overrides = field(default_factory=Overrides)
    deadline: str | None = None  # None: the manifest's
    time_budget_s: float | None = None  # None: the manifest's
    if_locked: IfLocked = field(default_factory=IfLocked)
    retry_failed: bool = False
    force: bool = False
    start_engine: StartEngine = start_supervised

    def deadline_of(self, manifest: Manifest, now: datetime) -> datetime | None:
        """The run's deadline: the option, else the manifest's. Raises ManifestError."""
        text = self.deadline or manifest.run.deadline
        if text is None:
            return None
        try:
            return parse_deadline(text, now)
        except ValueError as error:
            raise ManifestError(f"--deadline: {error}") from None

    def time_budget_of(self, manifest: Manifest) -> float | None:
        """Seconds of the run's time budget: the option, else the manifest's."""
        return self.time_budget_s if self.time_budget_s is not None else manifest.run.time_budget

    def time_left_s(self, manifest: Manifest) -> float | None:
        """Seconds that a run started now would have; None: no limit."""
        now = datetime.now().astimezone()
        deadline, budget = self.deadline_of(manifest, now), self.time_budget_of(manifest)
        ends = [] if budget is None else [budget]
        if deadline is not None:
            ends.append((deadline - now).total_seconds())
        return min(ends, default=None)


def time_budget_s(text: str | None) -> float | None:
    """Parse `--time-budget 5h` to seconds. Raises ManifestError (bad usage)."""
    try:
        return None if text is None else parse_duration(text)
    except ValueError as error:
        raise ManifestError(f"--time-budget {text}: {error}") from None
