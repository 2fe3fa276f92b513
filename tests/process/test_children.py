"""Signals that belong to the parent, and children that end with it."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from thothy_batch.process.children import can_die_with_parent, parent_signals_blocked

SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}

CHILD = """
import os, signal, sys
from thothy_batch.process.children import ignore_parent_signals
blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
ignore_parent_signals()
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    os.kill(os.getpid(), number)
print(sorted(map(int, blocked)), sorted(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, ()))))
"""


def test_signals_are_blocked_within_and_as_before_afterwards() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with parent_signals_blocked():
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) >= SIGNALS
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before


def test_the_mask_comes_back_after_an_error() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with pytest.raises(OSError, match="no process"), parent_signals_blocked():
        raise OSError("no process")
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before


def test_a_child_starts_with_them_blocked_and_then_ignores_them() -> None:
    path = os.pathsep.join(part for part in sys.path if part)
    with parent_signals_blocked():
        done = subprocess.run(
            [sys.executable, "-c", CHILD],
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            timeout=900,
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"{sorted(map(int, SIGNALS))} []"


def test_only_the_main_thread_starts_children_that_the_kernel_ends() -> None:
    assert can_die_with_parent()
    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.append(can_die_with_parent()))
    thread.start()
    thread.join()
    assert found == [False]
