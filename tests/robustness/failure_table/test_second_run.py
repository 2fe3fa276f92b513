"""Two runs at once, and locks whose holders are gone."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def held_project(project: Any) -> Any:
    """A project held by a run that waits until it is released."""
    first = project.start_run(faults=project.hold("engine.load"))
    first.wait_until_held()
    project.first = first
    return project


@pytest.mark.rest
def test_a_second_run_fails_skips_or_waits_as_it_was_told(
    held_project: Any, undisturbed: Any
) -> None:
    holder = json.loads((held_project.journal / "lock").read_text())
    waiting = held_project.start_run("--if-locked", "wait=1h")
    refused, skipped = (
        held_project.run("--if-locked", "fail"),
        held_project.run("--if-locked", "skip"),
    )
    assert (refused.code, skipped.code) == (3, 0)
    known = f"process {held_project.first.process.pid} on {socket.gethostname()}, run "
    for said in (refused.err, skipped.out):
        assert f"another run holds {held_project.store}: {known}" in said
        assert f"run {holder['run_id']}, since {holder['since']}, manifest " in said
    assert "hint: wait for it, or use --if-locked skip or --if-locked wait=30m" in refused.err
    assert skipped.out.startswith("skipped: another run holds")
    waiting.wait_for("waiting up to 3600 s")
    held_project.first.release()
    waited = waiting.end()
    assert waited.code == 0, waited
    assert "nothing left to do: 120 entries were reused" in waited.out
    assert held_project.first.end().code == 0
    held_project.check_whole(undisturbed)


@pytest.mark.rest
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_waiting_for_a_lock(held_project: Any, number: int) -> None:
    waiting = held_project.start_run("--if-locked", "wait=30m", "--json")
    waiting.wait_for("waiting up to 1800 s")
    waiting.send(number)
    outcome = waiting.end()
    assert outcome.code == 4, outcome
    (message,) = json.loads(outcome.out)["messages"]
    assert message.startswith(f"stopped by {signal.Signals(number).name} before anything was ")
    held_project.first.send(signal.SIGKILL)
    held_project.first.end()


@pytest.mark.rest
def test_waiting_ends_after_the_time_that_was_given(held_project: Any) -> None:
    outcome = held_project.run("--if-locked", "wait=1s")
    assert outcome.code == 3, outcome
    assert "another run holds" in outcome.err
    held_project.first.send(signal.SIGKILL)
    held_project.first.end()


def opened(pid: int) -> set[str]:
    """The files that a process has open."""
    found = set()
    for file in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            found.add(os.readlink(file))
    return found


def _details(pid: int) -> bytes:
    """Content that a run writes into its lock file."""
    fields = {"pid": pid, "host": "box", "run_id": "20200101-223000-abcdef", "since": "2020"}
    return json.dumps({**fields, "manifest": "/m.yaml", "extra": {}}).encode()


@pytest.mark.rest
@pytest.mark.parametrize(
    "left",
    ["dead", pytest.param("other", marks=pytest.mark.rest)]
    + [pytest.param(name, marks=pytest.mark.rest) for name in ("garbage", "list", "binary")],
)
def test_a_lock_file_that_nobody_holds_holds_nobody_up(
    project: Any, undisturbed: Any, left: str
) -> None:
    """The file is of a run before the reboot, names a process that is another one today, or
    cannot be read at all."""
    contents = {
        "dead": _details(4_194_303),
        "other": _details(os.getppid()),
        "garbage": b'{"pid": ',
        "list": b"[1, 2]",
        "binary": os.urandom(300),
    }
    project.journal.mkdir()
    (project.journal / "lock").write_bytes(contents[left])
    os.utime(project.journal / "lock", (0, 0))
    outcome = project.run("--if-locked", "fail")
    assert outcome.code == 0, outcome
    assert "another run" not in outcome.said
    project.check_whole(undisturbed)


@pytest.mark.rest
def test_a_run_killed_with_minus_nine_holds_nobody_up(project: Any, undisturbed: Any) -> None:
    command = project.start_and_reach_the_middle()
    command.send(signal.SIGKILL)
    command.end()
    assert json.loads((project.journal / "lock").read_text())["pid"] == command.process.pid
    status = project.start("status", project.store).end()
    assert "failed (killed)" in status.out
    outcome = project.run("--if-locked", "fail")
    assert outcome.code == 0, outcome
    project.check_whole(undisturbed)


@pytest.mark.rest
@pytest.mark.parametrize("content", [b"", b"garbage \xff", b"[]"])
def test_a_held_lock_without_readable_details_is_still_held(project: Any, content: bytes) -> None:
    """Somebody else's `flock` on it, say."""
    project.journal.mkdir()
    (project.journal / "lock").write_bytes(content)
    code = (
        "import fcntl, sys\nf = open(sys.argv[1])\nfcntl.flock(f, fcntl.LOCK_EX)\n"
        "print('held', flush=True)\nsys.stdin.readline()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(project.journal / "lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        # A command without a run is waited for up to a minute: a signal ends that, too.
        command = project.start_run()
        lock = str(project.journal / "lock")
        command.wait_for(lambda: lock in opened(command.process.pid))
        time.sleep(1.0)  # a run that held it would have been named by now
        assert not command.has_ended
        command.send(signal.SIGTERM)
        assert command.end().code == 4
        holder.communicate("\n")


@pytest.mark.rest
def test_a_place_where_no_lock_can_be_made_is_named(project: Any) -> None:
    """A folder on a read-only file system."""
    project.journal.mkdir()
    mount = f"mount --bind -o ro {project.journal} {project.journal}"
    again = f"mount -o remount,bind,ro {project.journal}"
    probe = ["unshare", "-rm", "sh", "-c", f"{mount} && {again}"]
    if subprocess.run(probe, capture_output=True).returncode != 0:
        pytest.skip("this system gives no user namespace with a mount of its own")
    project.prefix = ("unshare", "-rm", "sh", "-c", f'{mount} && {again} && exec "$0" "$@"')
    outcome = project.run()
    assert outcome.code == 5, outcome
    assert f"cannot open the lock file {project.journal / 'lock'}: Read-only file" in outcome.err
    assert "hint: that file system is mounted read-only: choose another path" in outcome.err
