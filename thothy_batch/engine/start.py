"""The ways to start an engine: in this process, in a child process, or supervised. No torch."""

import time
from functools import partial
from pathlib import Path

from thothy_batch.engine.process.engine_process import EngineProcess
from thothy_batch.engine.process.supervisor import EngineSupervisor
from thothy_batch.engine.protocol import EngineClient
from thothy_batch.records import EngineSpec


def start_in_process(spec: EngineSpec) -> EngineClient:
    """Start an engine in this process: it computes inside `poll`. For tests and experiments."""
    # Late: torch is imported only by processes that compute.
    from thothy_batch.engine.in_process import InProcessEngine

    return InProcessEngine.start(spec)


def start_child(spec: EngineSpec, *, log_path: Path | None = None) -> EngineClient:
    """Start an engine in a child process of its own; returns when it is ready to compute.

    The child's output goes to `log_path` (appended), or to a temporary file. Errors at start
    (ModelError and others) are raised as they are. The child ends when this process does.
    """
    engine = EngineProcess.start(spec, log_path)
    try:
        engine.ready(None)
    except BaseException:
        engine.close()
        raise
    return engine


def start_supervised(spec: EngineSpec, *, log_path: Path | None = None) -> EngineClient:
    """Start an engine in a child process, and another one whenever it dies. Else as
    `start_child`."""
    return EngineSupervisor(
        partial(EngineProcess.start, log_path=log_path),
        spec,
        clock=time.monotonic,  # both looked up now, so that tests can replace them
        sleep=time.sleep,
    )
