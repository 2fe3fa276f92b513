"""The protocol behind which every engine stands, and the two ways to start one. No torch."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

from thothy_batch.engine.supervisor import ChildEngine
from thothy_batch.records import EngineInfo, EngineSpec, EngineUpdate, Request


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


def start_in_process(spec: EngineSpec) -> EngineClient:
    """An engine in this process: it computes inside `poll`. For tests and small experiments."""
    # Late: torch is imported only by processes that compute.
    from thothy_batch.engine.local import LocalEngine

    return LocalEngine.start(spec)


def start_child(spec: EngineSpec, *, log_path: Path | None = None) -> EngineClient:
    """An engine in a child process of its own; returns when it is ready to compute.

    What the child prints goes to `log_path` (appended), or to a temporary file. Errors at start
    (ModelError and others) arrive as themselves. The child ends when this process does. Call it
    on a thread that lives as long as the engine shall: on Linux the child dies with that thread.
    """
    engine = ChildEngine.start(spec, log_path)
    try:
        engine.ready(None)
    except BaseException:
        engine.close()
        raise
    return engine


def start_supervised(spec: EngineSpec, *, log_path: Path | None = None) -> EngineClient:
    """Engines in child processes, one after another: when one dies the next goes on in its place.
    Else as `start_child`."""
    # Late: it needs the protocol above.
    from thothy_batch.engine.supervised import SupervisedEngine

    return SupervisedEngine(partial(ChildEngine.start, log_path=log_path), spec)
