"""The engine in a child process, seen from the parent: start it, talk to it, notice its death."""

import contextlib
import os
import queue
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from thothy_batch.engine.channel import Channel, ChannelClosedError
from thothy_batch.engine.messages import (
    Failed,
    LimitSteps,
    Ready,
    Start,
    StopAdmitting,
    Submit,
    Update,
    Withdraw,
)
from thothy_batch.errors import EngineError
from thothy_batch.records import EngineInfo, EngineSpec, EngineUpdate, Request

_LOG_LINES = 8
_LOG_BYTES = 4096
_KILL_S = 10.0
_DUMP_S = 10.0  # at most, until it has written its stacks
_SETTLED_S = 0.5  # a log that has not grown for so long has them all
_PARENTS_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # see child.py


class ChildEngine:
    """An EngineClient whose engine is a process of its own."""

    def __init__(
        self, process: "subprocess.Popen[bytes]", channel: Channel, log: BinaryIO, log_start: int
    ) -> None:
        self._process = process
        self._channel = channel
        self._log = log
        self._log_start = log_start
        self._last = EngineUpdate()
        self._num_messages = 0
        self._unseen: deque[tuple[int, int]] = deque()  # (number of the message, its requests)
        self._error: EngineError | None = None
        self._info: EngineInfo | None = None
        self._num_oom_kills = _num_oom_kills()
        self.heard_at = time.monotonic()  # of its latest message

    @classmethod
    def start(cls, spec: EngineSpec, log_path: Path | None) -> "ChildEngine":
        """Start the process. It can be used once `ready` says so."""
        try:
            log: BinaryIO = log_path.open("ab+") if log_path else tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the engine
            log_start = log.seek(0, os.SEEK_END)
            ours, theirs = socket.socketpair()
        except OSError as error:
            raise EngineError(f"the engine process could not be started: {error}") from error
        try:
            process = _spawn(theirs, log)
        except OSError as error:
            ours.close()
            log.close()
            raise EngineError(f"the engine process could not be started: {error}") from error
        finally:
            theirs.close()
        engine = cls(process, Channel(ours), log, log_start)
        engine._channel.send(Start(spec))
        return engine

    def ready(self, timeout_s: float | None) -> bool:
        """Whether it has loaded what it was told to; waits so long for it, None: until it has.
        Raises what went wrong, as it is."""
        if self._info is not None:
            return True
        self._check()
        try:
            message = self._channel.receive(timeout_s)
        except queue.Empty:
            return False
        except ChannelClosedError:
            raise self._death() from None
        if isinstance(message, Failed):
            raise message.error
        assert isinstance(message, Ready)
        self._info = message.info
        self.heard_at = time.monotonic()
        return True

    @property
    def info(self) -> EngineInfo:
        assert self._info is not None, "not ready yet"
        return self._info

    @property
    def pid(self) -> int:
        return self._process.pid

    def submit(self, requests: Sequence[Request]) -> None:
        self._send(Submit(list(requests)), len(requests))

    def withdraw(self, requests: Sequence[Request]) -> None:
        bare = [
            replace(request, prompt_token_ids=()) if request.prompt_token_ids else request
            for request in requests
            if request.prefixes
        ]
        if bare:
            self._send(Withdraw(bare), 0)

    def stop_admitting(self) -> None:
        self._send(StopAdmitting(), 0)

    def limit_steps(self, max_step_tokens: int) -> None:
        """Steps have at most so many tokens from now on."""
        self._send(LimitSteps(max_step_tokens), 0)

    def poll(self, timeout_s: float) -> EngineUpdate:
        """See EngineClient. EngineError when the child has died; what it sent before comes first.

        Several reports that have piled up are given as one.
        """
        self._check()
        merged = EngineUpdate()
        until = time.monotonic() + timeout_s
        while True:
            try:
                message = self._channel.receive(max(0.0, until - time.monotonic()))
            except queue.Empty:
                break
            except ChannelClosedError:
                self._error = self._death()
                if _has_answers(merged):
                    break
                raise self._error from None
            if isinstance(message, Failed):
                self._error = _as_engine_error(message.error)
                if _has_answers(merged):
                    break
                raise self._error
            assert isinstance(message, Update)
            self.heard_at = time.monotonic()
            _merge(merged, message.update)
            self._last = message.update
            self._forget_seen(message.num_messages)
            until = 0.0  # only what is here already
        _copy_state(self._last, merged)
        # What the child has not looked at yet waits, though its report could not say so.
        merged.num_waiting += sum(num_requests for _, num_requests in self._unseen)
        return merged

    def dump_stacks(self) -> str:
        """Make it write the stacks of all its threads to its log; says where that is."""
        with contextlib.suppress(OSError):
            self._process.send_signal(signal.SIGUSR1)
        self._wait_for_log()
        name = self._log.name
        return f"the stacks of its threads are in {name}" if isinstance(name, str) else "it hangs"

    def _wait_for_log(self) -> None:
        """Until what it writes has come to an end."""
        size = before = os.fstat(self._log.fileno()).st_size
        until = time.monotonic() + _DUMP_S
        while time.monotonic() < until:
            time.sleep(_SETTLED_S)
            now = os.fstat(self._log.fileno()).st_size
            if before < size == now:
                return
            size = now

    def close(self) -> None:
        """Hang up, upon which the child ends at once; kill it where it does not."""
        self._channel.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=1.0)
        if self._process.poll() is None:
            self._process.kill()
            # One that waits for a device driver dies when that lets it go, if ever.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=_KILL_S)
        self._log.close()
        if self._error is None:
            self._error = EngineError("the engine was closed")

    def _send(
        self, message: Submit | Withdraw | StopAdmitting | LimitSteps, num_requests: int
    ) -> None:
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

    def _death(self) -> EngineError:
        """Say how the child ended, with the last lines of its log."""
        try:
            code = self._process.wait(timeout=2.0)
        except subprocess.TimeoutExpired:
            return EngineError("the engine process closed its connection", hint=self._log_tail())
        cause = ""
        if code < 0:
            message = f"the engine process was killed by signal {-code}"
            with contextlib.suppress(ValueError):  # real-time signals have no name
                message += f" ({signal.Signals(-code).name})"
            if -code == signal.SIGKILL and _num_oom_kills() > self._num_oom_kills:
                message += ", by the system: memory ran out"
                cause = "memory"
        else:
            message = f"the engine process ended with exit code {code}"
        return EngineError(message, hint=self._log_tail(), cause=cause)

    def _log_tail(self) -> str:
        with contextlib.suppress(OSError, ValueError):
            end = self._log.seek(0, os.SEEK_END)
            self._log.seek(max(self._log_start, end - _LOG_BYTES))
            lines = self._log.read().decode(errors="replace").splitlines()
            if lines:
                return "its last lines:\n" + "\n".join(lines[-_LOG_LINES:])
        return "it left no message; lower engine.kv_memory if memory was short"


def _spawn(theirs: socket.socket, log: BinaryIO) -> "subprocess.Popen[bytes]":
    # The kernel's notice of a parent's death follows the thread that started the child.
    dies_with_parent = threading.current_thread() is threading.main_thread()
    # -P: a file in the folder the run was started from must not stand in for a module.
    command = [sys.executable, "-P", "-m", "thothy_batch.engine.child"]
    command += [str(theirs.fileno()), str(os.getpid()), str(int(dies_with_parent))]
    # Threads that spin for long at every barrier stall one another as soon as something else runs
    # on the machine: 300 requests of the embedded model beside two busy processes took 20-34 s
    # with OpenMP's default and 5.7 s so. A user's own setting goes first.
    environment = {"GOMP_SPINCOUNT": "2000", **os.environ}
    # A checkout that was put on the path by hand must be found by the child too.
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    # The child inherits what is blocked, until it has said that it ignores them: Ctrl-C in the
    # terminal reaches it as well, and it takes seconds to import what it needs.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _PARENTS_SIGNALS)
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(theirs.fileno(),),
            close_fds=True,
            env=environment,
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _num_oom_kills() -> int:
    """Processes that Linux has killed for their memory since it was started; 0 where unknown."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            name, _, number = line.partition(" ")
            if name == "oom_kill":
                return int(number)
    return 0


def _as_engine_error(error: Exception) -> EngineError:
    return error if isinstance(error, EngineError) else EngineError(str(error))


def _merge(into: EngineUpdate, update: EngineUpdate) -> None:
    into.results += update.results
    into.failures += update.failures
    into.steps += update.steps
    into.too_late += update.too_late


def _has_answers(update: EngineUpdate) -> bool:
    return bool(update.results or update.failures or update.too_late)


def _copy_state(source: EngineUpdate, target: EngineUpdate) -> None:
    target.totals = source.totals
    target.num_running, target.num_waiting = source.num_running, source.num_waiting
    target.num_aside = source.num_aside
    target.blocks_used, target.blocks_total = source.blocks_used, source.blocks_total
