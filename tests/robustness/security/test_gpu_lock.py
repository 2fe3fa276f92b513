"""The lock file in the temporary folder of all users: for everybody to lock, in nobody's hands."""

import json
import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from thothy_batch.errors import LockedError, LockHolder, StoreError
from thothy_batch.report.formatting import escape_controls
from thothy_batch.store.lock import FileLock

ME = LockHolder(pid=os.getpid(), host="box", run_id="r1", since="22:30", manifest="m.yaml")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "thothy-batch-GPU-1.lock"


def test_every_user_may_lock_a_file_that_one_has_made(path: Path) -> None:
    old = os.umask(0o077)
    try:
        FileLock(path, for_all=True).acquire(ME).release()
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666


def test_the_lock_of_a_store_keeps_to_the_umask(path: Path) -> None:
    old = os.umask(0o077)
    try:
        FileLock(path).acquire(ME).release()
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_link_is_not_followed(path: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    path.symlink_to(victim)
    with pytest.raises(StoreError, match="cannot open the lock file"):
        FileLock(path, for_all=True).acquire(ME)
    assert victim.read_text() == "precious"
    path.unlink()
    path.symlink_to(tmp_path / "not there yet")
    with pytest.raises(StoreError, match="cannot open the lock file"):
        FileLock(path, for_all=True).acquire(ME)
    assert not (tmp_path / "not there yet").exists()


def test_a_pipe_in_its_place_is_not_waited_for(path: Path) -> None:
    os.mkfifo(path)
    with pytest.raises(StoreError, match="no regular file"):
        FileLock(path, for_all=True).acquire(ME)


_OTHER_USER = """
import os, sys
from pathlib import Path
from thothy_batch.errors import LockedError, LockHolder
from thothy_batch.report.formatting import escape_controls
from thothy_batch.store.lock import FileLock
os.setgroups([]); os.setgid(65534); os.setuid(65534)
lock = FileLock(Path(sys.argv[1]), for_all=True)
try:
    lock.acquire(LockHolder(pid=os.getpid(), run_id="theirs"), patience_s=0)
    print("locked")
except LockedError as error:
    print("busy", error.message)
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become another user")
@pytest.mark.parametrize("mode", [0o666, 0o644])
def test_another_user_locks_the_same_file(mode: int) -> None:
    """Also where an earlier version left it readable and no more. The folder is like /tmp."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o1777)
        path = Path(folder) / "x.lock"
        path.touch()
        path.chmod(mode)
        assert _as_another(path) == "locked"
        with FileLock(path, for_all=True).acquire(ME):
            assert _as_another(path).startswith("busy another run holds")
        assert _as_another(path) == "locked"


def _as_another(path: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", _OTHER_USER, path], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"[" * 100_000,
        b"[]",
        b'{"pid": {}}',
        b'{"pid": "1\\u001b[2J"}',
        b'{"pid": 1, "unknown": 2}',
        json.dumps({"pid": 7, "host": "\x1b[2J\nerror: done\r\u202e" + "x" * 60_000}).encode(),
        b'{"pid": 1, "host": "' + b"x" * 10_000_000 + b'"}',
    ],
    ids=range(9),
)
def test_whatever_it_holds_makes_one_harmless_line(path: Path, content: bytes) -> None:
    with FileLock(path, for_all=True).acquire(ME):
        path.write_bytes(content)
        with pytest.raises(LockedError) as caught:
            FileLock(path, for_all=True).acquire(ME, patience_s=0)
    message = escape_controls(caught.value.message)
    assert message.startswith("another run holds")
    assert message.isprintable()
    assert len(message) < 3_000
