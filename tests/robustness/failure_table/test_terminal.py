"""On a terminal: however a run ends, the terminal is as it was, and its cursor is seen."""

import contextlib
import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TIMEOUT_S = 900  # after which something hangs
_CURSOR = re.compile(r"\x1b\[\?25([hl])")
_OTHER_SCREEN = re.compile(r"\x1b\[\?(?:1049|1047|47)([hl])")


class Terminal:
    """A run with a terminal of its own, as a shell starts one."""

    def __init__(self, project: Any, faults: str = "") -> None:
        self._project = project
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
        self._theirs = theirs
        self._before = termios.tcgetattr(theirs)
        words = ["run", project.folder / "night.yaml", "--store", project.store]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "thothy_batch", *words],
            cwd=project.folder,
            env={**os.environ, "TERM": "xterm-256color", "THOTHY_FAULTS": faults},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.set_blocking(self._ours, False)
        self.shown = ""

    def read(self) -> str:
        with contextlib.suppress(BlockingIOError, OSError):
            while data := os.read(self._ours, 65536):
                self.shown += data.decode(errors="replace")
        return self.shown

    def wait_for(self, seen: str | Callable[[], object]) -> None:
        """Until a text is shown, or something holds."""
        deadline = time.monotonic() + TIMEOUT_S
        while not (seen in self.read() if isinstance(seen, str) else seen()):
            assert time.monotonic() < deadline, self.read()[-2000:]
            assert self.process.poll() is None, self.read()[-2000:]
            time.sleep(0.01)

    def wait_until_taken_over(self) -> None:
        """Until a signal is caught: before, Python itself starts."""
        self.wait_for(lambda: self._project.catches(self.process.pid, signal.SIGTERM))

    def wait_until_held(self) -> None:
        self.wait_for(self._project.release_of(0).with_suffix(".held").exists)

    def wait_until_stopping(self) -> None:
        self.wait_for(lambda: self._project.status().get("state") == "stopping")

    def release(self) -> None:
        self._project.release_of(0).touch()

    def press_ctrl_c(self) -> None:
        """The terminal sends SIGINT to every process of the run."""
        os.write(self._ours, b"\x03")

    def end(self) -> int:
        """Its exit code; the terminal is checked."""
        deadline = time.monotonic() + TIMEOUT_S
        while self.process.poll() is None:
            self.read()
            assert time.monotonic() < deadline, self.shown[-2000:]
            time.sleep(0.01)
        self.read()
        assert termios.tcgetattr(self._theirs) == self._before
        os.close(self._theirs)
        os.close(self._ours)
        assert "Traceback" not in self.shown, self.shown
        cursor = _CURSOR.findall(self.shown)
        assert cursor[-1:] in (["h"], []), self.shown[-500:]
        assert _OTHER_SCREEN.findall(self.shown)[-1:] in (["l"], [])
        return self.process.returncode


@pytest.mark.rest
def test_after_ctrl_c_the_terminal_is_as_it_was(project: Any) -> None:
    project.manifest(more="run: {grace: 1h}")
    terminal = Terminal(project, project.hold("engine.step:60"))
    terminal.wait_for("tokens/s")
    terminal.wait_until_held()
    terminal.press_ctrl_c()
    terminal.wait_until_stopping()
    terminal.release()
    assert terminal.end() == 4
    assert "\x1b[?25l" in terminal.shown, "there was no live display"
    assert "stopped early (signal): " in terminal.shown
    assert "the engine died" not in terminal.shown


@pytest.mark.rest
@pytest.mark.parametrize("end", ["by itself", "SIGTERM", "SIGHUP", "two Ctrl-C", "three Ctrl-C"])
def test_after_other_ends_too(project: Any, end: str) -> None:
    project.manifest(more="run: {grace: 1h}")
    terminal = Terminal(project, project.hold("engine.step:60"))
    terminal.wait_for("tokens/s")
    terminal.wait_until_held()
    if end.startswith("SIG"):
        terminal.process.send_signal(signal.Signals[end])
        terminal.wait_until_stopping()
    if "Ctrl-C" in end:
        terminal.press_ctrl_c()
        terminal.wait_until_stopping()
        for _ in range({"two": 1, "three": 2}[end.split()[0]]):
            terminal.press_ctrl_c()
            time.sleep(0.1)  # two of them at once are one
    else:
        terminal.release()
    assert terminal.end() == (0 if end == "by itself" else 4)


@pytest.mark.rest
@pytest.mark.parametrize("phase", ["opening the store", "loading"])
@pytest.mark.parametrize("times", [1, 3])
def test_after_ctrl_c_before_anything_is_computed(project: Any, phase: str, times: int) -> None:
    place = "publish.begin" if phase == "opening the store" else "engine.load"
    terminal = Terminal(project, project.hold(place))
    terminal.wait_for(phase)
    terminal.wait_until_held()
    for _ in range(times):
        terminal.press_ctrl_c()
        time.sleep(0.02)
    assert terminal.end() == 4


@pytest.mark.rest
def test_after_the_engine_failed(project: Any) -> None:
    project.manifest("step_ms=2&fail=exit")
    terminal = Terminal(project)
    assert terminal.end() == 5
    assert "error: the engine process ended with exit code 7" in terminal.shown


@pytest.mark.rest
def test_after_the_store_failed(project: Any) -> None:
    terminal = Terminal(project, "journal.sync:3=full")
    assert terminal.end() == 5
    assert "error: cannot write the journal " in terminal.shown
    assert "No space left on device" in terminal.shown


@pytest.mark.rest
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_after_a_signal_at_any_moment_of_the_beginning(project: Any, number: int) -> None:
    """Also while the display is set up, and while modules are imported."""
    project.manifest(more="run: {grace: 0s}")
    for after in range(0, 24, 3):
        Path(project.store).unlink(missing_ok=True)
        terminal = Terminal(project, project.hold("engine.step:60"))
        terminal.wait_until_taken_over()
        time.sleep(after / 10)
        terminal.process.send_signal(number)
        assert terminal.end() == 4
