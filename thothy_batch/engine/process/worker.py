"""The engine process, started as `python -m thothy_batch.engine.process.worker FD PARENT_PID`.

The main thread computes; a reader thread takes messages meanwhile and ends the process at once
when the parent's end of the socket closes. Signals meant for the run (Ctrl-C in the terminal, a
service manager's SIGTERM to the whole group) are the parent's affair: the child lets it decide.
"""

import ctypes
import faulthandler
import logging
import os
import queue
import signal
import socket
import sys
import time

from thothy_batch.engine.builder import build_engine
from thothy_batch.engine.llm_engine import LLMEngine
from thothy_batch.engine.process.channel import Channel
from thothy_batch.engine.process.messages import (
    Failed,
    LimitSteps,
    Ready,
    Start,
    StopAdmitting,
    Submit,
    Update,
    Withdraw,
)
from thothy_batch.errors import EngineError, ThothyError
from thothy_batch.logs import configure_logging
from thothy_batch.testing import faults

REPORT_S = 0.1  # results of this long travel together
HEARTBEAT_S = 1.0
_PARENTS_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PR_SET_PDEATHSIG = 1
_log = logging.getLogger(__name__)


def main(argv: list[str]) -> int:
    """Serve one parent until it hangs up. Returns the exit code after a failure."""
    for number in _PARENTS_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    # The parent blocked them for the time of the imports.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _PARENTS_SIGNALS)
    configure_logging()
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1)  # the stacks of all threads, also of one that hangs
    fd, parent_pid, dies_with_parent = int(argv[0]), int(argv[1]), argv[2] == "1"
    if dies_with_parent:
        _die_with(parent_pid)
    # os._exit: the main thread may be inside a compiler or a kernel and must not be waited for.
    channel = Channel(socket.socket(fileno=fd), on_close=lambda: os._exit(0))
    try:
        start = channel.receive(None)
        assert isinstance(start, Start)
        faults.at("engine.load")
        engine, info = build_engine(start.spec, owns_process=True)
        channel.send(Ready(info))
        _serve(engine, channel)
    except Exception as error:
        _log.exception("the engine ends")
        channel.send(Failed(_as_thothy_error(error)))
        channel.flush(5.0)
        return 1
    return 0


def _serve(engine: LLMEngine, channel: Channel) -> None:
    """Step and report, for ever: the process ends when the parent hangs up."""
    reported_at = 0.0
    num_messages = 0
    is_quiet = False  # nothing happened since the last report
    while True:
        while _take_message(engine, channel, wait=is_quiet):
            num_messages += 1
            is_quiet = False
        if engine.has_work:
            faults.at("engine.step")
            engine.step()
            faults.at("engine.stepped")
        since = time.monotonic() - reported_at
        if engine.has_work:
            is_due = since >= (REPORT_S if engine.has_news else HEARTBEAT_S)
        else:
            is_due = not is_quiet
        # A parent that reads slowly gets fewer and larger reports, never a queue of them.
        if is_due and not (engine.has_work and channel.has_backlog):
            update = engine.take_update()
            faults.at("engine.report")
            channel.send(Update(update, num_messages))
            reported_at = time.monotonic()
            is_quiet = not engine.has_work


def _take_message(engine: LLMEngine, channel: Channel, *, wait: bool) -> bool:
    """Carry out one message of the parent; false when there is none (`wait`: there will be)."""
    try:
        message = channel.receive(None if wait else 0)
    except queue.Empty:
        return False
    if isinstance(message, Submit):
        engine.submit(message.requests)
    elif isinstance(message, Withdraw):
        engine.withdraw(message.requests)
    elif isinstance(message, LimitSteps):
        engine.limit_steps(message.max_step_tokens)
    elif isinstance(message, StopAdmitting):
        engine.stop_admitting()
    return True


def _as_thothy_error(error: Exception) -> ThothyError:
    if isinstance(error, ThothyError):
        return error
    text = str(error).split("\n")[0]
    if isinstance(error, MemoryError) or "allocate memory" in text or "out of memory" in text:
        return EngineError(
            "the engine ran out of memory" + (f": {text}" if text else ""),
            hint="lower engine.kv_memory or engine.max_step_tokens, or use a smaller model",
            cause="memory",
        )
    return EngineError(f"the engine failed: {type(error).__name__}: {text}")


def _die_with(parent_pid: int) -> None:
    """On Linux the kernel ends this process with its parent, even where no thread of it can run."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:  # it died before the line above
        os._exit(0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
