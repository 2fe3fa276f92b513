"""SIGINT, SIGTERM and SIGHUP, handled from the first moment to the last.

A run installs its own handlers while it lasts (`runner.session.stop_conditions`). Before it, and
in every other command, a signal raises Interrupted at once. Only during an import it is postponed:
an exception inside an import is swallowed there, or leaves a traceback on the terminal.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_AGAIN_S = 0.02
_MAX_SIGNALS = 3  # at the third the process exits at once
_EXIT_CODE = 4
_SHOW_CURSOR = b"\x1b[?25h"

_received: list[int] = []
_postponed: list[int] = []
_is_done = False
_may_raise = False  # a signal raises Interrupted where it arrives


class Interrupted(KeyboardInterrupt):  # noqa: N818  (not an error: the user asked for it)
    """A signal asked this program to end."""


def install() -> None:
    """Installs the handlers. For a process that belongs to this program."""
    for number in _SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup stays nohup
            signal.signal(number, _receive)
    signal.signal(signal.SIGALRM, _send_again)


def received() -> str:
    """The name of the first signal received; "" if none."""
    return signal.Signals(_received[0]).name if _received else ""


@contextlib.contextmanager
def raising() -> Iterator[None]:
    """Within the block a signal raises Interrupted; so does one received earlier. After the block
    the program is about to end by itself, and a signal changes nothing."""
    global _may_raise
    _may_raise = True
    try:
        if _received:
            raise Interrupted
        yield
    finally:
        _may_raise = False


def show_cursor() -> None:
    """Shows the terminal's cursor again: a signal may end a display while it is being set up."""
    if sys.stderr is not None and sys.stderr.isatty():
        os.write(2, _SHOW_CURSOR)


def ignore() -> None:
    """Ignores signals from now on: the work is done and its exit code known."""
    global _may_raise, _is_done
    _may_raise, _is_done = False, True


def ignore_all() -> None:
    """Ignores signals at exit, where Python would restore the default handlers, which kill."""
    for number in _SIGNALS:
        if signal.getsignal(number) is _receive:
            signal.signal(number, signal.SIG_IGN)


def _receive(number: int, frame: FrameType | None) -> None:
    global _may_raise
    _received.append(number)
    if len(_received) >= _MAX_SIGNALS and not _is_done:
        show_cursor()
        os._exit(_EXIT_CODE)
    if not _may_raise:
        return
    if _is_importing(frame):
        _postponed.append(_received.pop())
        signal.setitimer(signal.ITIMER_REAL, _AGAIN_S)
        return
    _may_raise = False  # a second signal does not disturb the cleanup
    raise Interrupted


def _send_again(number: int, frame: FrameType | None) -> None:
    """Redelivers the signal to the current handler (the run's, if one started)."""
    if _postponed:
        signal.raise_signal(_postponed.pop())


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
