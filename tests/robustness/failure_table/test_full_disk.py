"""A disk that is full for real: exit 5, a sentence that names the path, and nothing lost."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

SIZE = 8 * 2**20


@dataclass
class Disk:
    """A file system of 8 MB. `prefix` goes in front of commands that shall see it."""

    folder: Path
    prefix: tuple[str, ...]
    seen_from_here: Path  # the same folder, for this process

    @property
    def _ballast(self) -> Path:
        return self.seen_from_here / "ballast"

    def fill(self, room: int = 0) -> None:
        """Until so many bytes are left."""
        stat = os.statvfs(self.seen_from_here)
        left = stat.f_bavail * stat.f_frsize - room
        with self._ballast.open("ab") as file, contextlib.suppress(OSError):
            while left > 0:
                left -= file.write(bytes(min(left, 4096)))
                file.flush()

    def make_room(self) -> None:
        self._ballast.unlink()


@pytest.fixture(params=["mounted", "namespace"])
def disk(request: Any, tmp_path: Path) -> Iterator[Disk]:
    """A tmpfs: mounted where this user may, else in a user namespace of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    yield from _mounted(folder) if request.param == "mounted" else _in_namespace(folder)


def _mount(folder: Path) -> list[str]:
    return ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "thothy-test", str(folder)]


def _mounted(folder: Path) -> Iterator[Disk]:
    if os.geteuid() != 0 or subprocess.run(_mount(folder), capture_output=True).returncode != 0:
        pytest.skip("this user may not mount a tmpfs")
    try:
        yield Disk(folder, (), folder)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def _in_namespace(folder: Path) -> Iterator[Disk]:
    mount = " ".join(_mount(folder))
    with subprocess.Popen(
        ["unshare", "-rm", "sh", "-c", f"{mount} && echo mounted && read line"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        if holder.stdout.readline() != "mounted\n":
            pytest.skip("this system gives no user namespace with a mount of its own")
        enter = ("nsenter", "-t", str(holder.pid), "-U", "-m", "--preserve-credentials")
        yield Disk(folder, enter, Path(f"/proc/{holder.pid}/root{folder}"))
        holder.communicate("\n")


@pytest.fixture
def full_project(disk: Disk, project: Any) -> Any:
    """A project whose store is on that disk."""
    project.prefix, project.store_path = disk.prefix, disk.folder / "artifacts.duckdb"
    project.journal_from_here = disk.seen_from_here / "artifacts.duckdb.journal"
    return project


def assert_told(outcome: Any, store: Path) -> None:
    """Exit 5, what cannot be written, why, and what to do."""
    assert outcome.code == 5, outcome
    (error,) = [line for line in outcome.err.splitlines() if line.startswith("error: ")]
    assert str(store) in error, outcome
    assert "No space left" in error or "the disk is full" in error, outcome
    assert "hint: free some space on that disk, then give the same command again" in outcome.err


def assert_recovers(project: Any, disk: Disk, undisturbed: Any, tmp_path: Path) -> None:
    """With room again the next run does the rest, and nothing shows what had been."""
    disk.make_room()
    outcome = project.run()
    assert outcome.code == 0, outcome
    # Checked where this process can open it: a copy.
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", str(disk.seen_from_here), str(copy)], check=True)
    project.store_path = copy / "artifacts.duckdb"
    project.check_whole(undisturbed)
    ends = project.query("select distinct status, stop_reason, exit_code from runs")
    assert set(ends) <= {("completed", None, 0), ("failed", "store_failed", 5)}


@pytest.mark.rest
@pytest.mark.parametrize("disk", ["mounted", "namespace"], indirect=True)
def test_at_the_start(full_project: Any, disk: Disk, undisturbed: Any, tmp_path: Path) -> None:
    disk.fill()
    outcome = full_project.run()
    assert_told(outcome, full_project.store)
    assert "computing" not in outcome.err
    if disk.prefix:  # the rest is the same
        return
    assert_recovers(full_project, disk, undisturbed, tmp_path)


@pytest.mark.rest
@pytest.mark.parametrize("disk", ["mounted"], indirect=True)
@pytest.mark.parametrize("room", [0, 20_000, 100_000, 600_000])
def test_in_the_middle_of_the_run(
    full_project: Any, disk: Disk, undisturbed: Any, tmp_path: Path, room: int
) -> None:
    """Without any room the journal cannot grow; with some, DuckDB is the one that cannot."""
    command = full_project.start_and_reach_the_middle()
    disk.fill(room)
    command.release()
    outcome = command.end()
    if room < 600_000:
        assert_told(outcome, full_project.store)
    else:
        assert outcome.code in (0, 5)
    assert outcome.code == 0 or list(full_project.seen.glob("*.seg")), "the rows are gone"
    told = full_project.start("status", full_project.store).end()
    assert told.code in (0, 5), told
    assert_recovers(full_project, disk, undisturbed, tmp_path)


@pytest.mark.rest
@pytest.mark.parametrize("disk", ["mounted"], indirect=True)
@pytest.mark.parametrize(
    ("fault", "room"), [("publish.begin:3", 0), ("publish.commit:2", 0), ("run.end", 8192)]
)
def test_at_the_end(
    full_project: Any, disk: Disk, undisturbed: Any, tmp_path: Path, fault: str, room: int
) -> None:
    """While the rows of the run are published. Where the machine is slow enough for a merge in the
    middle of the run, only some of them are."""
    command = full_project.start_run(faults=full_project.hold(fault))
    command.wait_until_held()
    disk.fill(room)
    command.release()
    outcome = command.end()
    if outcome.code != 0:
        assert_told(outcome, full_project.store)
        assert list(full_project.seen.glob("*.seg"))
    assert_recovers(full_project, disk, undisturbed, tmp_path)


@pytest.mark.rest
@pytest.mark.parametrize("disk", ["mounted"], indirect=True)
@pytest.mark.parametrize("how", ["error", "segv"])
def test_under_the_engines_log_alone(
    project: Any, disk: Disk, undisturbed: Any, tmp_path: Path, how: str
) -> None:
    """An engine that dies and cannot say so is followed by the next one all the same."""
    disk.fill()
    project.journal.mkdir()
    (project.journal / "engine.log").symlink_to(disk.folder / "engine.log")
    (disk.folder / "engine.log").touch()
    project.manifest(f"step_ms=2&fail={how}&fail_at_step=9&fail_once={tmp_path / 'failed'}")
    outcome = project.run()
    assert outcome.code == 0, outcome
    assert "the engine died: the engine " in outcome.err
    if how == "error":
        assert "RuntimeError: the fake model was asked to fail" in outcome.err
    texts = {row[:2]: row[3] for row in undisturbed if row[0] == "greedy"}
    found = project.query("select job, item_id, text from artifacts where job = 'greedy'")
    assert {row[:2]: row[2] for row in found} == texts
