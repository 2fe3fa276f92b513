"""The ways to start an engine: in this process, in a child process, or supervised. No torch."""

from functools import partial
from pathlib import Path

from thothy_batch.engine.process.engine_process import EngineProcess
from thothy_batch.engine.process.supervisor import EngineSupervisor
from thothy_batch.engine.protocol import EngineClient
from thothy_batch.records import EngineSpec


def start_in_process(spec: EngineSpec) -> EngineClient:
    """An engine in this process: it computes inside `poll`. For tests and small experiments."""
    # Late: torch is imported only by processes that compute.
    from thothy_batch.engine.in_process import InProcessEngine

    return InProcessEngine.start(spec)


def start_child(spec: EngineSpec, *, log_path: Path | None = None) -> EngineClient:
    """An engine in a child process of its own; returns when it is ready to compute.

    What the child prints goes to `log_path` (appended), or to a temporary file. Errors at start
    (ModelError and others) arrive as themselves. The child ends when this process does. Call it
    on a thread that lives as long as the engine shall: on Linux the child dies with that thread.
    """
    engine = EngineProcess.start(spec, log_path)
    try:
        engine.ready(None)
    except BaseException:
        engine.close()
        raise
    return engine


def start_supervised(spec: EngineSpec, *, log_path: Path | None = None) -> EngineClient:
    """Engines in child processes, one after another: when one dies the next goes on in its place.
    Else as `start_child`."""
    return EngineSupervisor(partial(EngineProcess.start, log_path=log_path), spec)
