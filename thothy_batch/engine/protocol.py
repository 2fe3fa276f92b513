"""The protocol that every engine implements. Imports the standard library only."""

from collections.abc import Sequence
from typing import Protocol

from thothy_batch.records import EngineInfo, EngineUpdate, Request


class EngineClient(Protocol):
    """A running engine. Every method may raise EngineError once the engine has died."""

    @property
    def info(self) -> EngineInfo:
        """What the engine resolved while it started."""
        ...

    def submit(self, requests: Sequence[Request]) -> None:
        """Queue requests. Higher priority goes first, then the order of submission.

        Each is answered once, by a RequestResult or a RequestFailure, unless `stop_admitting`
        gave it back. Returns before they are looked at.
        """
        ...

    def withdraw(self, requests: Sequence[Request]) -> None:
        """Planned requests that will never be submitted: what they would have shared need not be
        kept for them."""
        ...

    def poll(self, timeout_s: float) -> EngineUpdate:
        """What happened since the last poll; waits up to `timeout_s` for something to report.

        An engine that works reports at least once a second. `num_waiting` counts requests that
        were never started, `num_running` those that were and are not finished.
        """
        ...

    def stop_admitting(self) -> None:
        """Give back what was never started: it appears in no result, and `num_waiting` becomes 0.

        What runs is finished. Requests that are submitted later are given back likewise.
        """
        ...

    def close(self) -> None:
        """End the engine now, whatever it does. May be called again."""
        ...


class RestartableEngine(EngineClient, Protocol):
    """An engine that can die and be followed by another."""

    @property
    def heard_at(self) -> float:
        """time.monotonic() of its latest message."""
        ...

    def ready(self, timeout_s: float | None) -> bool:
        """Whether it can compute; waits so long for it. Raises what went wrong at its start."""
        ...

    def limit_steps(self, max_step_tokens: int) -> None:
        """Compute at most so many tokens a step from now on."""
        ...

    def dump_stacks(self) -> str:
        """Make it write the stacks of all its threads; returns where they are."""
        ...
