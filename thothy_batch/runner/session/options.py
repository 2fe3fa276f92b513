"""What a command asks of a run."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from thothy_batch.engine.protocol import EngineClient
from thothy_batch.engine.start import start_supervised
from thothy_batch.errors import ManifestError
from thothy_batch.manifest.settings import Overrides, parse_duration

# Starts an engine; `log_path` takes what a child process prints.
StartEngine = Callable[..., EngineClient]


@dataclass(frozen=True, slots=True)
class IfLocked:
    """What happens when another run holds the store: fail | skip | wait."""

    action: str = "fail"
    wait_s: float = 0.0

    @classmethod
    def parse(cls, text: str) -> "IfLocked":
        """`fail`, `skip` or `wait=30m`. Raises ManifestError (bad usage)."""
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


def time_budget_s(text: str | None) -> float | None:
    """Seconds of `--time-budget 5h`. Raises ManifestError (bad usage)."""
    try:
        return None if text is None else parse_duration(text)
    except ValueError as error:
        raise ManifestError(f"--time-budget {text}: {error}") from None
