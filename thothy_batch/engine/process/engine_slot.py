"""The place of the current engine: dead, starting or ready."""

import time
from collections.abc import Callable
from dataclasses import replace
from enum import Enum, auto

from thothy_batch.engine.protocol import RestartableEngine
from thothy_batch.errors import EngineError, ThothyError
from thothy_batch.records import EngineSpec

StartEngine = Callable[[EngineSpec], RestartableEngine]

# Of stall_s, for the first engine: it may have to compile, and to read weights over a network.
_FIRST_LOAD_STALLS = 12
_LOADS = 3  # times the first engine's load time, that a later one may take where that is longer


class _State(Enum):
    STARTING = auto()
    READY = auto()
    DEAD = auto()


class EngineSlot:
    """Starts engines one after another, and waits for each until it has loaded."""

    def __init__(
        self, start: StartEngine, spec: EngineSpec, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Start the first engine and wait for it. Its errors are raised as they are; EngineError
        for one that hangs."""
        self._start = start
        self._spec = spec
        self._clock = clock
        self._started_at = clock()
        self.engine = start(spec)
        try:
            self._wait_for_first()
            self._first_load_s = self.engine.info.load_s
        except BaseException:
            self.engine.close()
            raise
        self._state = _State.READY

    @property
    def is_ready(self) -> bool:
        return self._state is _State.READY

    @property
    def is_dead(self) -> bool:
        return self._state is _State.DEAD

    def start_next(self) -> None:
        """Start another engine in the place of a dead one. Raises EngineError."""
        assert self.is_dead
        self.engine, self._state = self._start(self._spec), _State.STARTING
        self._started_at = self._clock()

    def wait(self, timeout_s: float) -> bool:
        """True once the engine that was started is ready. Raises EngineError where it cannot be,
        or takes far longer than the first one."""
        try:
            if self.engine.ready(timeout_s):
                self._state = _State.READY
                return True
        except EngineError:
            raise
        except ThothyError as error:  # its model, changed since the run began: not bad usage
            raise EngineError(error.message, hint=error.hint, cause="model") from error
        took_s = self._clock() - self._started_at
        if took_s > max(self._spec.stall_s, _LOADS * self._first_load_s):
            where = self.engine.dump_stacks()
            raise EngineError(f"it was not ready after {took_s:.0f} s; {where}", cause="stalled")
        return False

    def limit_steps(self, max_step_tokens: int) -> None:
        """Start later engines with steps of at most this many tokens."""
        self._spec = replace(self._spec, max_step_tokens=max_step_tokens)

    def close(self) -> None:
        """End the engine; the slot is dead until the next start."""
        self.engine.close()
        self._state = _State.DEAD

    def _wait_for_first(self) -> None:
        limit_s = _FIRST_LOAD_STALLS * self._spec.stall_s
        if not self.engine.ready(limit_s):
            where = self.engine.dump_stacks()
            raise EngineError(
                f"the engine was not ready after {limit_s:.0f} s; {where}",
                hint="where loading takes so long, raise run.stall_after",
                cause="stalled",
            )
