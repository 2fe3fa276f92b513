"""SIGINT, SIGTERM and SIGHUP from the first moment to the last: an end with a sentence.

A run takes them over while it lasts (`runner.stopping`). Before it, and in every other command,
they end the command where they strike. An import is let finish: an exception in the middle of one
is swallowed there, or leaves a trace on the terminal.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_AGAIN_S = 0.02
_PATIENCE = 3  # so many signals, and nothing is waited for any more
_EXIT_CODE = 4
_SHOW_CURSOR = b"\x1b[?25h"

_received: list[int] = []
_back_off: list[int] = []
_is_done = False
_is_heeded = False  # whether a signal may raise where it strikes


class Interrupted(KeyboardInterrupt):  # noqa: N818  (not an error: the user asked for it)
    """A signal that asks this program to end."""


def install() -> None:
    """From here on no signal ends the program without a word. For the program's own process."""
    for number in _SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup stays nohup
            signal.signal(number, _receive)
    signal.signal(signal.SIGALRM, _send_again)


def received() -> str:
    """The name of the first signal that came; "" where none did."""
    return signal.Signals(_received[0]).name if _received else ""


@contextlib.contextmanager
def raising() -> Iterator[None]:
    """Within, a signal raises Interrupted; so does one that came before. Behind it nothing is left
    to be ended: the program ends by itself."""
    global _is_heeded
    _is_heeded = True
    try:
        if _received:
            raise Interrupted
        yield
    finally:
        _is_heeded = False


def ignore() -> None:
    """What was asked for is done, and the exit code known: a signal changes it no more."""
    global _is_heeded, _is_done
    _is_heeded, _is_done = False, True


def ignore_all() -> None:
    """The program ends: Python would give the signals back, and one of them kill what is over."""
    for number in _SIGNALS:
        if signal.getsignal(number) is _receive:
            signal.signal(number, signal.SIG_IGN)


def _receive(number: int, frame: FrameType | None) -> None:
    global _is_heeded
    _received.append(number)
    if len(_received) >= _PATIENCE and not _is_done:
        if sys.stderr is not None and sys.stderr.isatty():
            os.write(2, _SHOW_CURSOR)
        os._exit(_EXIT_CODE)
    if not _is_heeded:
        return
    if _is_importing(frame):
        _back_off.append(_received.pop())
        signal.setitimer(signal.ITIMER_REAL, _AGAIN_S)
        return
    _is_heeded = False  # what ends now is not disturbed by a second one
    raise Interrupted


def _send_again(number: int, frame: FrameType | None) -> None:
    """Who takes the signals by now gets it: a run, where one has begun."""
    if _back_off:
        signal.raise_signal(_back_off.pop())


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
