"""The ways to start an engine: in this process, in a child process, or supervised. No torch."""

import time
from itertools import chain, repeat
from pathlib import Path

from thothy_batch.engine.process.engine_process import EngineProcess
from thothy_batch.engine.process.supervisor import EngineSupervisor
from thothy_batch.engine.protocol import EngineClient, OnPhase, ignore_phase
from thothy_batch.records import EngineSpec


def start_in_process(spec: EngineSpec) -> EngineClient:
    """Start an engine in this process: it computes inside `poll`. For tests and experiments."""
    # Late: torch is imported only by processes that compute.
    from thothy_batch.engine.in_process import InProcessEngine

    return InProcessEngine.start(spec)


def start_child(
    spec: EngineSpec, *, log_path: Path | None = None, on_phase: OnPhase = ignore_phase
) -> EngineClient:
    """Start an engine in a child process of its own; returns when it is ready to compute.

    The child's output goes to `log_path` (appended), or to a temporary file. Errors at start
    (ModelError and others) are raised as they are. The child ends when this process does.
    `on_phase` is told what is done until it is ready.
    """
    engine = EngineProcess.start(spec, log_path, on_phase=on_phase)
    try:
        engine.ready(None)
    except BaseException:
        engine.close()
        raise
    return engine


def start_supervised(
    spec: EngineSpec, *, log_path: Path | None = None, on_phase: OnPhase = ignore_phase
) -> EngineClient:
    """Start an engine in a child process, and another one whenever it dies. Otherwise like
    `start_child`."""
    # Looked up now, not at import, so that tests can replace them.
    clock, sleep = time.monotonic, time.sleep
    # Phases of later engines are not told: the run computes, and says that it restarts one.
    phases = chain([on_phase], repeat(ignore_phase))

    def start(spec: EngineSpec) -> EngineProcess:
        return EngineProcess.start(spec, log_path, clock=clock, on_phase=next(phases))

    return EngineSupervisor(start, spec, clock=clock, sleep=sleep)
