"""One holder at a time, across processes; the lock ends with its holder and not with a child."""

import contextlib
import fcntl
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from thothy_batch.errors import LockedError, LockHolder, StoreError
from thothy_batch.store.leftovers import publish_if_free
from thothy_batch.store.lock import FileLock, read_holder
from thothy_batch.store.status import read_status, write_status

ME = LockHolder(pid=os.getpid(), host="box", run_id="r1", since="22:30", manifest="m.yaml")

_HOLDER = """
import os, subprocess, sys, time
from pathlib import Path
from thothy_batch.errors import LockHolder
from thothy_batch.store.lock import FileLock
FileLock(Path(sys.argv[1])).acquire(LockHolder(pid=os.getpid(), run_id=sys.argv[2]))
child = None
if sys.argv[3] == "forked":
    if os.fork() == 0:
        time.sleep(3600)
elif sys.argv[3] == "spawned":
    child = subprocess.Popen(["sleep", "3600"], close_fds=False)
print(child.pid if child else 0, flush=True)
time.sleep(3600)
"""


@contextmanager
def _holder(path: Path, run_id: str = "r9", child: str = "none") -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", _HOLDER, str(path), run_id, child]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline().strip().isdigit()
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def test_a_second_holder_is_told_who_the_first_is(tmp_path: Path) -> None:
    path = tmp_path / "s.journal" / "lock"
    with FileLock(path).acquire(ME), pytest.raises(LockedError) as caught:
        FileLock(path).acquire(LockHolder(pid=2, run_id="r2"))
    assert caught.value.holder == ME
    for part in (str(os.getpid()), "box", "r1", "22:30", "m.yaml", f"holds {tmp_path / 's'}:"):
        assert part in caught.value.message
    assert "--if-locked" in caught.value.hint
    FileLock(path).acquire(ME).release()


def test_other_processes_see_the_holder_and_only_while_it_lives(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert read_holder(path) is None
    with _holder(path) as process:
        found = read_holder(path)
        assert found is not None
        assert (found.pid, found.run_id) == (process.pid, "r9")
        with pytest.raises(LockedError, match=f"process {process.pid}"):
            FileLock(path).acquire(ME)
        process.kill()
        process.wait()
        assert read_holder(path) is None  # its details are still in the file
        assert json.loads(path.read_text())["run_id"] == "r9"
        FileLock(path).acquire(ME, patience_s=0.0).release()


@pytest.mark.parametrize("child", ["forked", "spawned"])
def test_a_child_does_not_keep_the_lock_of_a_killed_parent(tmp_path: Path, child: str) -> None:
    path = tmp_path / "lock"
    with _holder(path, child=child) as process:
        process.kill()
        process.wait()
        # A forked child lets go in its first moment, which may lie behind its parent's end.
        FileLock(path).acquire(ME, patience_s=120.0).release()


def test_a_forked_worker_ending_leaves_the_parents_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    lock = FileLock(path).acquire(ME)
    pid = os.fork()
    if pid == 0:
        os._exit(1 if lock.held else 0)
    assert os.waitpid(pid, 0)[1] == 0
    with pytest.raises(LockedError):
        FileLock(path).acquire(ME)
    lock.release()


def test_a_spawned_worker_does_not_hold_it(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "lock").acquire(ME)
    context = multiprocessing.get_context("spawn")
    worker = context.Process(target=time.sleep, args=(3600,))
    worker.start()
    try:
        lock.release()
        FileLock(tmp_path / "lock").acquire(ME, patience_s=0.0).release()
    finally:
        worker.kill()
        worker.join()


def test_looking_at_a_lock_does_not_make_a_run_fail(tmp_path: Path, virtual_clock: Any) -> None:
    """`status` takes a shared lock for an instant."""
    path = tmp_path / "lock"
    FileLock(path).acquire(ME).release()
    fd = os.open(path, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_SH)
    virtual_clock.after(0.1, lambda: os.close(fd))
    FileLock(path).acquire(ME).release()


def test_a_short_command_is_waited_for_and_a_run_is_not(tmp_path: Path, virtual_clock: Any) -> None:
    path = tmp_path / "lock"
    with _holder(path, run_id="r9"):
        began = virtual_clock.now
        with pytest.raises(LockedError):
            FileLock(path).acquire(ME)
        assert virtual_clock.now - began < 5
    with _holder(path, run_id="") as process:
        virtual_clock.after(20.0, lambda: _kill(process))
        FileLock(path).acquire(ME).release()


def test_patience_waits_for_a_run(tmp_path: Path, virtual_clock: Any) -> None:
    path = tmp_path / "lock"
    with _holder(path) as process:
        virtual_clock.after(20.0, lambda: _kill(process))
        FileLock(path).acquire(ME, patience_s=30.0).release()


def _kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()


def test_nothing_is_published_under_a_running_run(harness, rows) -> None:  # type: ignore[no-untyped-def]
    with harness.run() as store:
        rows.add_done(store, 1)
        store._journal.commit()
        assert not publish_if_free(harness.path)
        store.end_run({"status": "completed"})
    assert publish_if_free(harness.path)


def test_a_lock_in_a_missing_folder_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="lock file"):
        FileLock(tmp_path / "no" / "such" / "lock").acquire(ME)


def test_status_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    assert read_status(path) is None
    write_status(path, {"run_id": "r1", "text": "half \ud83d"})
    assert read_status(path) == {"run_id": "r1", "text": "half ?"}
    path.write_text('{"run_id": "r')
    assert read_status(path) is None
    write_status(tmp_path / "no" / "status.json", {"a": 1})  # a lost status stops nothing
    assert [p.name for p in tmp_path.iterdir()] == ["status.json"]
