"""The protocol that every engine implements. Imports the standard library only."""

from collections.abc import Callable, Sequence
from typing import Protocol

from thothy_batch.records import EngineInfo, EngineUpdate, Request

# Told what an engine does until it is ready, and how far it is: `what: how far`, or `what`.
OnPhase = Callable[[str], None]


def ignore_phase(text: str) -> None:
    """Serve as an OnPhase where nothing shows phases."""


class EngineClient(Protocol):
    """A running engine. Every method may raise EngineError once the engine has died.

    Each submitted request is reported exactly once: as a result, as a failure, as expired, or as
    given back. A request that was started is never given back, unless its engine dies after
    `stop_admitting`.
    """

    @property
    def info(self) -> EngineInfo:
        """The settings, model and versions that the engine resolved while it started."""
        ...

    def submit(self, requests: Sequence[Request]) -> None:
        """Queue requests: higher priority first, then in the order of submission.

        Returns before they are validated. After `stop_admitting` they are given back.
        """
        ...

    def poll(self, timeout_s: float) -> EngineUpdate:
        """Report what happened since the last poll; wait up to `timeout_s` for something to report.

        A busy engine reports at least once a second. `num_waiting` counts requests that were never
        started, `num_running` those that were started and are not finished.
        """
        ...

    def cancel(self, requests: Sequence[Request]) -> None:
        """Drop requests that are not wanted any more.

        Queued ones are given back; for planned ones that were never submitted, no shared prefix
        stays pinned. Those that were started are finished.
        """
        ...

    def stop_admitting(self) -> None:
        """Start nothing more; what runs is finished. Queued requests wait for `give_back`."""
        ...

    def give_back(self) -> None:
        """Give back every request that was never started: `EngineUpdate.given_back` names it, and
        it can be submitted to another engine. Requests submitted later are queued as before."""
        ...

    def close(self) -> None:
        """End the engine now, whatever it does. May be called again."""
        ...


class RestartableEngine(EngineClient, Protocol):
    """An engine that can die and be followed by another."""

    @property
    def heard_at(self) -> float:
        """When its latest message was read, by the monotonic clock of this process."""
        ...

    def ready(self, timeout_s: float | None) -> bool:
        """True once the engine can compute. Waits up to `timeout_s` for it, without limit where
        that is None. Raises what went wrong at its start."""
        ...

    def limit_steps(self, max_step_tokens: int) -> None:
        """Compute at most this many tokens a step from now on."""
        ...

    def dump_stacks(self) -> str:
        """Have it write the stacks of all its threads; returns a phrase that says where."""
        ...
