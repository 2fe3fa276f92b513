"""Helpers for child processes: they ignore the parent's signals, and end with the parent.

SIGINT, SIGTERM and SIGHUP of a terminal or a service manager reach the whole process group. The
parent alone decides what they mean, so a child is started with them blocked (it takes seconds to
import what it needs) and then either ignores them or leaves them blocked.
"""

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection

_PARENT_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PR_SET_PDEATHSIG = 1


@contextlib.contextmanager
def parent_signals_blocked() -> Iterator[None]:
    """Block the parent's signals in this thread; a process started within inherits that."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _PARENT_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def spawned(serve: Callable[..., None], *job: object) -> Iterator[Connection]:
    """Run `serve(connection, *job)` in a new process, which is killed at the end of the block.

    Yields the end that receives what `serve` sends; the child leaves the parent's signals blocked.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=serve, args=(theirs, *job), daemon=True)
    try:
        with parent_signals_blocked():
            child.start()
        theirs.close()  # so that the pipe ends when the child ends
        yield ours
    finally:
        ours.close()
        if child.pid is not None:
            child.kill()
            child.join()
        child.close()


def ignore_parent_signals() -> None:
    """In a child's main thread: ignore the parent's signals from now on, and unblock them."""
    for number in _PARENT_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _PARENT_SIGNALS)


def obey_parent_sigterm() -> None:
    """In a child that leaves the signals blocked: end by a SIGTERM that the parent itself sent.

    One from any other process is dropped.
    """

    def wait() -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
            pass
        os._exit(1)

    threading.Thread(target=wait, name="parent-sigterm", daemon=True).start()


def end_with_parent() -> None:
    """In a child of `multiprocessing`: a thread ends this process when its parent has ended.

    A child that waits on a queue may hold the other end itself, and would not notice.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, name="parent-watch", daemon=True).start()


def can_die_with_parent() -> bool:
    """True in the main thread: the kernel's notice follows the thread that started the child, and
    would kill it when a shorter-lived thread ends."""
    return threading.current_thread() is threading.main_thread()


def die_with_parent(parent_pid: int) -> None:
    """In a child: have the kernel kill this process with its parent, even where no thread of it
    can run. Linux only; call it where the parent found `can_die_with_parent`."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:  # the parent died before the line above
        os._exit(0)
