"""An engine in this process: it computes while it is polled."""

import time
from collections.abc import Callable, Sequence

from thothy_batch.engine.builder import build_engine
from thothy_batch.engine.llm_engine import LLMEngine
from thothy_batch.records import EngineInfo, EngineSpec, EngineUpdate, Request


class InProcessEngine:
    """An EngineClient without a second process."""

    def __init__(
        self, engine: LLMEngine, info: EngineInfo, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._engine = engine
        self._info = info
        self._clock = clock

    @classmethod
    def start(cls, spec: EngineSpec) -> "InProcessEngine":
        # The clock is looked up now, so that tests can replace it.
        return cls(*build_engine(spec, owns_process=False), clock=time.monotonic)

    @property
    def info(self) -> EngineInfo:
        return self._info

    @property
    def engine(self) -> LLMEngine:
        """The engine inside, for tests."""
        return self._engine

    def submit(self, requests: Sequence[Request]) -> None:
        self._engine.submit(requests)

    def poll(self, timeout_s: float) -> EngineUpdate:
        """Compute until something can be reported, the time is up, or nothing is left to do.

        Computes at least one step, so that polling in a loop always ends.
        """
        until = self._clock() + timeout_s
        while self._engine.has_work:
            self._engine.step()
            if self._engine.has_update or self._clock() >= until:
                break
        return self._engine.pop_update()

    def cancel(self, requests: Sequence[Request]) -> None:
        self._engine.cancel(requests)

    def stop_admitting(self) -> None:
        self._engine.stop_admitting()

    def give_back(self) -> None:
        self._engine.give_back()

    def close(self) -> None:
        pass
