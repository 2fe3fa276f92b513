"""The modules that another engine's child program shares load the standard library alone."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
SHARED = (
    "thothy_batch.engine.protocol",
    "thothy_batch.engine.process.messages",
    "thothy_batch.engine.process.channel",
    "thothy_batch.process.atomic_write",
    "thothy_batch.process.children",
    "thothy_batch.process.pool",  # with the face of its package
    "thothy_batch.records",  # with its modules
    "thothy_batch.records.engine_state",
    "thothy_batch.records.entries",
    "thothy_batch.records.requests",
    "thothy_batch.records.specs",
    "thothy_batch.errors",
)
# What such a program's parent loads beside: no engine is built in it.
PARENT = ("thothy_batch.engine.start",)
# Isolated, without site: .pth files import what they like.
SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
for name in sys.argv[2:]:
    __import__(name)
print(*sorted(name for name in sys.modules if "." not in name))
print(*sorted(name for name in sys.modules if name.startswith("thothy_batch.")))
"""


def loaded(*names: str) -> tuple[set[str], set[str]]:
    """Top-level modules, and our own, that a fresh interpreter has after importing these."""
    command = [sys.executable, "-I", "-S", "-c", SCRIPT, str(ROOT), *names]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    tops, ours = done.stdout.splitlines()
    return set(tops.split()), set(ours.split())


@pytest.mark.few(4)
@pytest.mark.parametrize("names", [(each,) for each in (*SHARED, *PARENT)] + [SHARED])
def test_only_the_standard_library_is_loaded(names: tuple[str, ...]) -> None:
    tops, _ = loaded(*names)
    # multiprocessing names the main module twice.
    assert tops - sys.stdlib_module_names - {"__main__", "__mp_main__"} == {"thothy_batch"}


def test_no_engine_comes_with_the_protocol() -> None:
    _, ours = loaded(*SHARED)
    packages = {"thothy_batch.engine", "thothy_batch.engine.process", "thothy_batch.process"}
    testing = {"thothy_batch.testing", "thothy_batch.testing.faults"}
    assert ours == {*SHARED, *packages, *testing}
