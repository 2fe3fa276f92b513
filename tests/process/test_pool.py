"""Worker processes: order, bounds, errors, and an end with their parent."""

import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from thothy_batch.process import map_chunks

# Picklable by name in any process: a factory of `sum` over a chunk, one of int over a chunk.
MAKE_SUM = functools.partial(functools.partial, sum)
MAKE_INT = functools.partial(functools.partial, int)

SCRIPT = """\
import json, os, signal, sys, time
from thothy_batch.process import map_chunks

def make():
    return work

def work(chunk):
    {work}
    return os.getpid()

def chunks():
    while True:
        yield [1]

if __name__ == "__main__":
    # What a background shell starts ignores Ctrl-C otherwise.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for pid in map_chunks(make, chunks(), num_workers=2):
        print(pid, flush=True)
        {then}
"""


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_results_come_in_the_order_of_the_chunks(num_workers: int) -> None:
    chunks = [list(range(i)) for i in range(25)]
    assert list(map_chunks(MAKE_SUM, chunks, num_workers=num_workers)) == list(map(sum, chunks))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_chunks_are_read_only_a_little_ahead(num_workers: int) -> None:
    read = 0

    def chunks() -> Iterator[list[int]]:
        nonlocal read
        for i in range(1000):
            read += 1
            yield [i]

    results = map_chunks(MAKE_SUM, chunks(), num_workers=num_workers)
    for taken in range(1, 20):
        next(results)
        assert read <= taken + 2 * num_workers
    results.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_what_a_worker_raises_is_raised_here(num_workers: int) -> None:
    with pytest.raises(TypeError, match="int"):
        list(map_chunks(MAKE_INT, [[1]], num_workers=num_workers))


def test_a_fault_of_the_source_ends_the_workers() -> None:
    def chunks() -> Iterator[list[int]]:
        yield [1]
        raise OSError("unreadable")

    with pytest.raises(OSError, match="unreadable"):
        list(map_chunks(MAKE_SUM, chunks(), num_workers=1))


def start(folder: Path, *, work: str = "pass", then: str = "pass") -> subprocess.Popen[str]:
    script = folder / "run.py"
    script.write_text(SCRIPT.format(work=work, then=then))
    path = os.pathsep.join(p for p in sys.path if p)
    return subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )


def worker_pids(parent: subprocess.Popen[str]) -> set[int]:
    """The pids of both workers, and of all other children of the parent."""
    assert parent.stdout is not None
    pids: set[int] = set()
    while len(pids) < 2:
        pids.add(int(parent.stdout.readline()))
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
    return pids | {int(pid) for pid in children.read_text().split()} if children.exists() else pids


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat")
        return not state.exists() or state.read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def wait_until_gone(pids: set[int]) -> None:
    """For as long as a test may last."""
    while any(is_alive(pid) for pid in pids):
        time.sleep(0.05)


@pytest.mark.parametrize("work", ["time.sleep(0.02)", "sum(range(10**6))"])
def test_workers_end_with_their_parent(tmp_path: Path, work: str) -> None:
    parent = start(tmp_path, work=work)
    pids = worker_pids(parent)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    wait_until_gone(pids)
    parent.communicate()


def test_idle_workers_end_too(tmp_path: Path) -> None:
    parent = start(tmp_path, work="time.sleep(0.05)", then="if pid is None: time.sleep(600)")
    pids = worker_pids(parent)
    parent.send_signal(signal.SIGSTOP)  # takes no results, hands out nothing: workers run dry
    time.sleep(0.5)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    wait_until_gone(pids)
    parent.communicate()


def test_ctrl_c_ends_parent_and_workers_without_their_tracebacks(tmp_path: Path) -> None:
    parent = start(tmp_path, work="time.sleep(0.02)")
    pids = worker_pids(parent)
    for pid in [parent.pid, *pids]:
        os.kill(pid, signal.SIGINT)
    _, errors = parent.communicate(timeout=900)
    wait_until_gone(pids)
    assert errors.count("Traceback") == 1  # the parent's own KeyboardInterrupt


@pytest.mark.parametrize("num_workers", [1, 3])
def test_a_killed_worker_is_an_error_and_not_a_wait(tmp_path: Path, num_workers: int) -> None:
    """The others are ended with it, whatever they are at."""
    script = """\
import os, sys, time
from thothy_batch.errors import ThothyError
from thothy_batch.process import map_chunks

def make():
    return work

def work(chunk):
    if chunk == [2]:
        time.sleep(600)
    os.kill(os.getpid(), 9)

if __name__ == "__main__":
    try:
        list(map_chunks(make, [[1], [2], [2]], num_workers=int(sys.argv[1])))
    except ThothyError as error:
        sys.exit(f"told: {error.message}")
"""
    path = tmp_path / "run.py"
    path.write_text(script)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run(
        [sys.executable, str(path), str(num_workers)],
        capture_output=True,
        text=True,
        env=env,
        timeout=900,
        check=False,
    )
    assert "told: a worker process that renders and tokenises ended unexpectedly" in done.stderr
