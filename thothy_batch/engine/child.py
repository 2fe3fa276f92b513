"""The engine's own process: `python -m thothy_batch.engine.child FD`. Started by client.py only."""

import ctypes
import os
import queue
import signal
import socket
import sys
import threading
import time
import traceback

from thothy_batch.engine.llm_engine import LLMEngine
from thothy_batch.engine.start import start_engine
from thothy_batch.engine.wire import Message, Tag, receive, send
from thothy_batch.errors import EngineError, ThothyError

REPORT_EVERY_S = 0.1
_PR_SET_PDEATHSIG = 1


def main(fd: int) -> None:
    """Start, then compute until the parent closes its end."""
    _die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    sock = socket.socket(fileno=fd)
    inbox: queue.Queue[Message] = queue.Queue()
    threading.Thread(target=_read, args=(sock, inbox), daemon=True).start()
    outbox: queue.Queue[Message] = queue.Queue()
    threading.Thread(target=_write, args=(sock, outbox), daemon=True).start()
    try:
        started = start_engine(inbox.get().body)
        outbox.put(Message(Tag.READY, started.info))
        _serve(started.engine, inbox, outbox)
    except ThothyError as error:
        outbox.put(Message(Tag.FAILED, error))
    except Exception as error:
        traceback.print_exc()
        outbox.put(Message(Tag.FAILED, EngineError(f"{type(error).__name__}: {error}")))
    while True:  # the reader ends this process once the parent has read and closes
        time.sleep(1)


def _die_with_parent() -> None:
    """Linux kills this process with its parent, even inside a long computation."""
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(0)


def _read(sock: socket.socket, inbox: "queue.Queue[Message]") -> None:
    while True:
        try:
            inbox.put(receive(sock))
        except (EOFError, OSError):
            os._exit(0)  # the parent is gone: nothing that this process does matters any more


def _write(sock: socket.socket, outbox: "queue.Queue[Message]") -> None:
    """Sends from a thread of its own: a slow parent never holds up the engine."""
    while True:
        try:
            send(sock, outbox.get())
        except OSError:
            os._exit(0)


def _serve(
    engine: LLMEngine, inbox: "queue.Queue[Message]", outbox: "queue.Queue[Message]"
) -> None:
    reported = time.monotonic()
    while True:
        _take_messages(engine, inbox, wait=not engine.has_work)
        if engine.has_work:
            engine.step()
        if not engine.has_work:
            engine.meter.flush(engine.scheduler)
        now = time.monotonic()
        if now - reported >= REPORT_EVERY_S or not engine.has_work:
            outbox.put(Message(Tag.UPDATE, engine.take_update()))
            reported = now


def _take_messages(engine: LLMEngine, inbox: "queue.Queue[Message]", *, wait: bool) -> None:
    try:
        message = inbox.get(timeout=0.5) if wait else inbox.get_nowait()
        while True:
            if message.tag == Tag.SUBMIT:
                engine.submit(message.body)
            elif message.tag == Tag.STOP_ADMITTING:
                engine.stop_admitting()
            message = inbox.get_nowait()
    except queue.Empty:
        return


if __name__ == "__main__":
    main(int(sys.argv[1]))
