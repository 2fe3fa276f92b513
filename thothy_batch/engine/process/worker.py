"""The engine process: `python -m thothy_batch.engine.process.worker FD PARENT_PID 0|1`.

The main thread computes; a reader thread receives messages meanwhile and ends the process at once
when the parent's end of the socket closes. Signals meant for the run (Ctrl-C in the terminal, a
service manager's SIGTERM to the whole group) are ignored: the parent decides what they mean. With
1 the kernel ends it with its parent.
"""

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
    Cancel,
    Failed,
    GiveBack,
    LimitSteps,
    Phase,
    Ready,
    Start,
    StopAdmitting,
    Submit,
    Update,
)
from thothy_batch.errors import EngineError, ThothyError
from thothy_batch.logs import configure_logging
from thothy_batch.process import die_with_parent, ignore_parent_signals
from thothy_batch.testing import faults

REPORT_S = 0.1  # results within such a period are sent together
HEARTBEAT_S = 1.0  # between updates of a busy engine without results
_log = logging.getLogger(__name__)


def main(argv: list[str]) -> int:
    """Serve one parent until it hangs up. Returns the exit code after a failure."""
    ignore_parent_signals()
    configure_logging()
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1)  # the stacks of all threads, also of one that hangs
    fd, parent_pid, dies_with_parent = int(argv[0]), int(argv[1]), argv[2] == "1"
    if dies_with_parent:
        die_with_parent(parent_pid)
    # os._exit: the main thread may be inside a compiler or a kernel, which nothing interrupts.
    channel = Channel(socket.socket(fileno=fd), on_close=lambda: os._exit(0))
    try:
        start = channel.receive(None)
        assert isinstance(start, Start)
        faults.at("engine.load")
        engine, info = build_engine(
            start.spec, owns_process=True, phase=lambda text: channel.send(Phase(text))
        )
        channel.send(Ready(info))
        _serve(engine, channel)
    except Exception as error:
        _log.exception("the engine ends")
        channel.send(Failed(_as_thothy_error(error)))
        channel.flush(5.0)
        return 1
    return 0


def _serve(engine: LLMEngine, channel: Channel) -> None:
    """Step and report forever: the process ends when the parent hangs up."""
    reported_at = 0.0
    num_messages = 0
    is_quiet = False  # nothing happened since the last report
    while True:
        while _handle_message(engine, channel, wait=is_quiet):
            num_messages += 1
            is_quiet = False
        if engine.has_work:
            faults.at("engine.step")
            engine.step()
            faults.at("engine.stepped")
        since = time.monotonic() - reported_at
        if engine.has_work:
            is_due = since >= (REPORT_S if engine.has_update else HEARTBEAT_S)
        else:
            is_due = not is_quiet
        # A parent that reads slowly gets fewer and larger reports, never a queue of them.
        if is_due and not (engine.has_work and channel.has_backlog):
            update = engine.pop_update()
            faults.at("engine.report")
            channel.send(Update(update, num_messages))
            reported_at = time.monotonic()
            is_quiet = not engine.has_work


def _handle_message(engine: LLMEngine, channel: Channel, *, wait: bool) -> bool:
    """Carry out one message of the parent. False where none has arrived; `wait`: wait for one."""
    try:
        message = channel.receive(None if wait else 0)
    except queue.Empty:
        return False
    if isinstance(message, Submit):
        engine.submit(message.with_deadlines(channel.arrived_at))
    elif isinstance(message, Cancel):
        engine.cancel(message.requests)
    elif isinstance(message, LimitSteps):
        engine.limit_steps(message.max_step_tokens)
    elif isinstance(message, StopAdmitting):
        engine.stop_admitting()
    elif isinstance(message, GiveBack):
        engine.give_back()
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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
