"""The engine in this process: it computes while it is polled."""

import time
from collections.abc import Sequence

from thothy_batch.engine.builder import build_engine
from thothy_batch.engine.llm_engine import LLMEngine
from thothy_batch.records import EngineInfo, EngineSpec, EngineUpdate, Request


class InProcessEngine:
    """An EngineClient without a second process."""

    def __init__(self, engine: LLMEngine, info: EngineInfo) -> None:
        self._engine = engine
        self._info = info

    @classmethod
    def start(cls, spec: EngineSpec) -> "InProcessEngine":
        return cls(*build_engine(spec, owns_process=False))

    @property
    def info(self) -> EngineInfo:
        return self._info

    @property
    def engine(self) -> LLMEngine:
        """For tests that look inside."""
        return self._engine

    def submit(self, requests: Sequence[Request]) -> None:
        self._engine.submit(requests)

    def withdraw(self, requests: Sequence[Request]) -> None:
        self._engine.cancel_planned(requests)

    def poll(self, timeout_s: float) -> EngineUpdate:
        """Computes until something can be reported, the time is up, or nothing is left to do.

        Always computes at least one step, so that polling in a loop comes to an end.
        """
        until = time.monotonic() + timeout_s
        while self._engine.has_work:
            self._engine.step()
            if self._engine.has_update or time.monotonic() >= until:
                break
        return self._engine.pop_update()

    def stop_admitting(self) -> None:
        self._engine.stop_admitting()

    def close(self) -> None:
        pass
