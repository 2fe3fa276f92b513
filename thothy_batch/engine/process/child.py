"""The operating system's side of an engine process: its start, its log, and how it died."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import BinaryIO

from thothy_batch.engine.hardware.environment import COMPUTE_ENVIRONMENT
from thothy_batch.errors import EngineError
from thothy_batch.logs import child_environment
from thothy_batch.process import can_die_with_parent, parent_signals_blocked

_LOG_LINES = 8
_LOG_BYTES = 4096
_HANG_UP_S = 1.0  # for it to end by itself
_KILL_S = 10.0
_DUMP_S = 10.0  # at most, for it to write its stacks
_QUIET_S = 0.5  # a log that has not grown for this long is complete


class Child:
    """A process that serves one end of a socket and writes to a log."""

    def __init__(self, process: "subprocess.Popen[bytes]", log: BinaryIO, log_start: int) -> None:
        self._process = process
        self._log = log
        self._log_start = log_start  # offset in a log that earlier processes wrote to as well
        self._num_oom_kills = _num_oom_kills()

    @classmethod
    def start(cls, sock: socket.socket, log_path: Path | None) -> "Child":
        """Start the engine process on its end of a socket. Raises EngineError."""
        try:
            log: BinaryIO = log_path.open("ab+") if log_path else tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the engine
            log_start = log.seek(0, os.SEEK_END)
        except OSError as error:
            raise cannot_start(error) from error
        try:
            return cls(_spawn(sock, log), log, log_start)
        except OSError as error:
            log.close()
            raise cannot_start(error) from error

    @property
    def pid(self) -> int:
        return self._process.pid

    def dump_stacks(self) -> str:
        """Have it write the stacks of all its threads to its log; a phrase that says where."""
        with contextlib.suppress(OSError):
            self._process.send_signal(signal.SIGUSR1)
        self._wait_for_log()
        name = self._log.name
        return f"the stacks of its threads are in {name}" if isinstance(name, str) else "it hangs"

    def _wait_for_log(self) -> None:
        """Wait until the log has grown and then stopped growing."""
        size = before = os.fstat(self._log.fileno()).st_size
        until = time.monotonic() + _DUMP_S
        while time.monotonic() < until:
            time.sleep(_QUIET_S)
            now = os.fstat(self._log.fileno()).st_size
            if before < size == now:
                return
            size = now

    def close(self) -> None:
        """Wait for its end after the socket was closed; kill it where it does not end."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=_HANG_UP_S)
        if self._process.poll() is None:
            self._process.kill()
            # A process inside a device driver dies when the driver returns, if ever.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=_KILL_S)
        self._log.close()

    def death(self) -> EngineError:
        """Describe its end, with the last lines of its log, once it has closed the socket."""
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


def cannot_start(error: OSError) -> EngineError:
    """The error of an engine process for which the system has no room."""
    return EngineError(f"the engine process could not be started: {error}")


def _spawn(sock: socket.socket, log: BinaryIO) -> "subprocess.Popen[bytes]":
    # -P: a file in the folder the run was started from must not stand in for a module.
    command = [sys.executable, "-P", "-m", "thothy_batch.engine.process.worker"]
    command += [str(sock.fileno()), str(os.getpid()), str(int(can_die_with_parent()))]
    # A user's own setting has precedence.
    environment = {**COMPUTE_ENVIRONMENT, **os.environ, **child_environment()}
    # A checkout that was put on the path by hand must be found by the child too.
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    with parent_signals_blocked():
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(sock.fileno(),),
            close_fds=True,
            env=environment,
        )


def _num_oom_kills() -> int:
    """Processes that Linux killed for their memory since it booted; 0 where unknown."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            name, _, number = line.partition(" ")
            if name == "oom_kill":
                return int(number)
    return 0
