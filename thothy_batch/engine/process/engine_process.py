"""An engine in a child process, seen from the parent: start it, talk to it, notice its death."""

import logging
import queue
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from thothy_batch.engine.process.channel import Channel, ChannelClosedError
from thothy_batch.engine.process.child import Child, cannot_start
from thothy_batch.engine.process.messages import (
    Cancel,
    Failed,
    GiveBack,
    LimitSteps,
    Phase,
    Ready,
    Start,
    StopAdmitting,
    Submit,
    ToChild,
    Update,
)
from thothy_batch.engine.protocol import OnPhase, ignore_phase
from thothy_batch.errors import EngineError
from thothy_batch.records import EngineInfo, EngineSpec, EngineUpdate, Request

_log = logging.getLogger(__name__)


class EngineProcess:
    """A RestartableEngine whose engine is a process of its own."""

    def __init__(
        self,
        child: Child,
        channel: Channel,
        clock: Callable[[], float] = time.monotonic,
        on_phase: OnPhase = ignore_phase,
    ) -> None:
        self._on_phase = on_phase
        self._child = child
        self._channel = channel
        self._clock = clock
        self._last = EngineUpdate()
        self._num_messages = 0
        self._unseen: deque[tuple[int, int]] = deque()  # (number of the message, its requests)
        self._error: EngineError | None = None
        self._info: EngineInfo | None = None
        self.heard_at = clock()  # when its latest message was read

    @classmethod
    def start(
        cls,
        spec: EngineSpec,
        log_path: Path | None = None,
        clock: Callable[[], float] | None = None,
        on_phase: OnPhase = ignore_phase,
    ) -> "EngineProcess":
        """Start the process. It can be used once `ready` says so; until then `on_phase` is told
        what it does, while `ready` waits."""
        try:
            ours, theirs = socket.socketpair()
        except OSError as error:
            raise cannot_start(error) from error
        try:
            child = Child.start(theirs, log_path)
        except EngineError:
            ours.close()
            raise
        finally:
            theirs.close()
        clock = clock or time.monotonic  # looked up now, so that tests can replace it
        engine = cls(child, Channel(ours, clock=clock), clock, on_phase)
        engine._channel.send(Start(spec))
        _log.info("engine process %d started; its log: %s", engine.pid, log_path or "none")
        return engine

    def ready(self, timeout_s: float | None) -> bool:
        """See RestartableEngine. The child's errors are raised as they are."""
        if self._info is not None:
            return True
        self._check()
        until = None if timeout_s is None else self._clock() + timeout_s
        while True:
            try:
                left_s = None if until is None else max(0.0, until - self._clock())
                message = self._channel.receive(left_s)
            except queue.Empty:
                return False
            except ChannelClosedError:
                raise self._child.death() from None
            if not isinstance(message, Phase):
                break
            self._on_phase(message.text)
        if isinstance(message, Failed):
            raise message.error
        assert isinstance(message, Ready)
        self._info = message.info
        self.heard_at = self._clock()
        return True

    @property
    def info(self) -> EngineInfo:
        assert self._info is not None, "not ready yet"
        return self._info

    @property
    def pid(self) -> int:
        return self._child.pid

    def submit(self, requests: Sequence[Request]) -> None:
        self._send(Submit.of(requests, self._clock()), len(requests))

    def cancel(self, requests: Sequence[Request]) -> None:
        # An object that is listed often is sent once; so is its copy.
        bare = {id(each): replace(each, prompt_token_ids=(), ends_at=None) for each in requests}
        if bare:
            self._send(Cancel([bare[id(each)] for each in requests]))

    def stop_admitting(self) -> None:
        self._send(StopAdmitting())

    def give_back(self) -> None:
        self._send(GiveBack())

    def limit_steps(self, max_step_tokens: int) -> None:
        """See RestartableEngine."""
        self._send(LimitSteps(max_step_tokens))

    def poll(self, timeout_s: float) -> EngineUpdate:
        """See EngineClient. Raises EngineError when the child has died, after all that it sent.

        Several updates that have piled up are merged into one.
        """
        self._check()
        merged = EngineUpdate()
        until = self._clock() + timeout_s
        while True:
            try:
                message = self._channel.receive(max(0.0, until - self._clock()))
            except queue.Empty:
                break
            except ChannelClosedError:
                self._error = self._child.death()
            else:
                if isinstance(message, Failed):
                    self._error = _as_engine_error(message.error)
            if self._error is not None:
                if _has_outcomes(merged):
                    break
                raise self._error from None
            assert isinstance(message, Update)
            self.heard_at = self._clock()
            _merge(merged, message.update)
            self._last = message.update
            self._forget_seen(message.num_messages)
            until = 0.0  # take what is here already, and wait for nothing more
        _copy_state(self._last, merged)
        # Requests in messages that the child has not read yet are waiting as well.
        merged.num_waiting += sum(num_requests for _, num_requests in self._unseen)
        return merged

    def dump_stacks(self) -> str:
        """See RestartableEngine."""
        return self._child.dump_stacks()

    def close(self) -> None:
        """Hang up, upon which the child ends at once; kill it where it does not."""
        self._channel.close()
        self._child.close()
        if self._error is None:
            self._error = EngineError("the engine was closed")

    def _send(self, message: ToChild, num_requests: int = 0) -> None:
        self._check()
        self._num_messages += 1
        self._unseen.append((self._num_messages, num_requests))
        self._channel.send(message)

    def _forget_seen(self, num_messages: int) -> None:
        while self._unseen and self._unseen[0][0] <= num_messages:
            self._unseen.popleft()

    def _check(self) -> None:
        if self._error is not None:
            raise self._error


def _as_engine_error(error: Exception) -> EngineError:
    return error if isinstance(error, EngineError) else EngineError(str(error))


def _merge(into: EngineUpdate, update: EngineUpdate) -> None:
    into.results += update.results
    into.failures += update.failures
    into.steps += update.steps
    into.expired += update.expired
    into.given_back += update.given_back


def _has_outcomes(update: EngineUpdate) -> bool:
    return bool(update.results or update.failures or update.expired or update.given_back)


def _copy_state(source: EngineUpdate, target: EngineUpdate) -> None:
    target.totals = source.totals
    target.num_running, target.num_waiting = source.num_running, source.num_waiting
    target.num_deferred = source.num_deferred
    target.blocks_used, target.blocks_total = source.blocks_used, source.blocks_total
