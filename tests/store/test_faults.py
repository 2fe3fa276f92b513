"""Kills, full disks and forbidden places: nothing committed is lost, nothing is there twice."""

import contextlib
import os
import random
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from thothy_batch.errors import StoreError
from thothy_batch.store.files import journal_folder
from thothy_batch.store.journal.segment import segment_paths
from thothy_batch.store.leftovers import publish_if_free
from thothy_batch.store.queries.read import report_data
from thothy_batch.store.store import Store

WRITER = Path(__file__).parent / "writer.py"
NUM_KILLS = 4


@pytest.mark.rest
def test_kill_9_at_any_moment_leaves_exactly_a_prefix(harness: Any) -> None:
    """Each round goes on where the last one was cut, like a run that is started again."""
    rng = random.Random(7)
    first, survivors = 0, []
    for number in range(NUM_KILLS):
        committed = _killed_writer(harness.path, f"r{number}", first, rng.uniform(0.1, 1.5))
        assert publish_if_free(harness.path)
        found = _items(harness, f"r{number}")
        assert found == list(range(first, first + len(found)))  # a prefix, each one once
        assert committed < first or found[-1] >= committed
        survivors += found
        first += len(found)
        _check_killed_run(harness, f"r{number}", len(found))
    assert _items(harness) == survivors == list(range(first))
    texts = harness.query("SELECT text, item_id FROM artifacts")
    assert len(texts) == first
    assert all(text == f"text {int(item)} " * (int(item) % 40) for text, item in texts)
    results = _artifact_ids(harness, first)
    assert results == {f"k{n}": f"a{n:06d}" for n in range(first)}
    assert first > 0


@pytest.mark.rest
def test_kill_9_while_a_reader_holds_the_file_loses_nothing(harness: Any) -> None:
    with harness.reader(read_only=False):
        committed = _killed_writer(harness.path, "r1", 0, 1.0)
        assert not publish_if_free(harness.path)
        assert set(_artifact_ids(harness, committed + 1)) == {f"k{n}" for n in range(committed + 1)}
    assert publish_if_free(harness.path)
    found = _items(harness)
    assert found == list(range(len(found)))
    assert found[-1] >= committed
    _check_killed_run(harness, "r1", len(found))


def _killed_writer(path: Path, run_id: str, first: int, after_s: float) -> int:
    """Runs the writer, kills it some time after its first commit; the last one that it printed."""
    command = [sys.executable, str(WRITER), str(path), run_id, str(first)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        printed = process.stdout.readline()
        time.sleep(after_s)
        process.kill()
        rest = process.stdout.read().split("\n")[:-1]
    return int((rest or [printed])[-1])


def _items(harness: Any, run_id: str | None = None) -> list[int]:
    where = f"WHERE run_id = '{run_id}'" if run_id else ""
    query = f"SELECT item_id::INTEGER FROM run_items {where} ORDER BY rowid"
    return [row[0] for row in harness.query(query)]


def _check_killed_run(harness: Any, run_id: str, num_done: int) -> None:
    run = harness.row("SELECT * FROM runs WHERE run_id = ?", run_id)
    assert (run["status"], run["stop_reason"], run["num_done"]) == ("failed", "killed", num_done)
    assert run["num_items"] == run["num_done"] + run["num_not_run"] == 10**6
    made = harness.row("SELECT sum(output_tokens) AS n FROM artifacts WHERE run_id = ?", run_id)
    assert run["output_tokens"] == made["n"]


def _artifact_ids(harness: Any, num: int) -> dict[str, str]:
    store = Store.open(harness.path)
    try:
        found = store.cached_results(f"k{n}" for n in range(num))
    finally:
        store.close()
    return {key: result.artifact_id for key, result in found.items()}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a few MB, where this user may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=12m", "thothy-test", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("a full disk needs the right to mount a tmpfs; see the RLIMIT_FSIZE test")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_stops_with_a_clear_error_and_an_intact_journal(
    small_disk: Path, rows: Any
) -> None:
    path = small_disk / "artifacts.duckdb"
    ballast = small_disk / "ballast"
    store = Store.open(path)
    store.begin_run({"run_id": "r1", "name": "full"})
    committed: list[int] = []
    _fill(store, rows, 100, 4000, committed)
    store.publish()
    ballast.write_bytes(bytes(_free(small_disk) - 600_000))
    with pytest.raises(StoreError, match=r"full|No space") as caught:
        _fill(store, rows, 100_000, 4000, committed)
    assert "space" in caught.value.hint
    with contextlib.suppress(StoreError):
        store.close()
    with ballast.open("ab") as file:  # what the run had held back
        file.write(bytes(max(0, _free(small_disk) - 200_000)))
    with pytest.raises(StoreError, match=r"full|No space"):  # merging needs room too
        Store.open(path).publish()
    assert segment_paths(journal_folder(path))
    ballast.unlink()
    assert publish_if_free(path)
    store = Store.open(path)
    found = store.cached_results(f"k{n}" for n in range(len(committed) + 20))
    store.close()
    assert {f"k{n}" for n in committed} <= set(found)


def _fill(store: Store, rows: Any, num: int, num_bytes: int, committed: list[int]) -> None:
    """Adds that many entries of text that does not compress; notes which are committed."""
    first = len(committed)
    for start in range(first, first + num, 10):
        for number in range(start, start + 10):
            rows.add_done(store, number, text=os.urandom(num_bytes).hex())
        store._journal.commit()
        committed += range(start, start + 10)


def _free(folder: Path) -> int:
    stat = os.statvfs(folder)
    return stat.f_bavail * stat.f_frsize


def test_a_store_that_may_not_grow_is_a_clear_error(harness: Any, rows: Any) -> None:
    """RLIMIT_FSIZE stands in for a full disk where nothing can be mounted."""
    store = Store.open(harness.path)
    store.begin_run({"run_id": "r1", "name": "limit"})
    store.publish()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
    try:
        with pytest.raises(StoreError, match="limit|large") as caught:
            _fill(store, rows, 1000, 500, [])
        assert "ulimit" in caught.value.hint
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    store.close()  # there is room again: what waited in memory is written and published too
    found = _items(harness)
    assert found == list(range(len(found)))
    assert len(found) > 100


@pytest.fixture
def nobody() -> Iterator[None]:
    """Drops root's rights for a while: root may write anywhere."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def _opened_by(folder: Path, mode: int) -> None:
    for part in (folder, *folder.rglob("*")):
        part.chmod(mode if part == folder else 0o755 if part.is_dir() else 0o644)
    for parent in folder.parents:
        if str(parent).startswith("/tmp/pytest"):
            parent.chmod(0o755)


def test_a_folder_without_write_permission_is_a_clear_error(tmp_path: Path, request: Any) -> None:
    folder = tmp_path / "shut"
    folder.mkdir()
    _opened_by(folder, 0o555)
    request.getfixturevalue("nobody")
    with pytest.raises(StoreError, match="Permission denied") as caught:
        Store.open(folder / "artifacts.duckdb")
    assert "--store" in caught.value.hint


def test_a_store_of_another_user_can_be_read_and_not_written(
    harness: Any, rows: Any, request: Any
) -> None:
    with harness.run() as store:
        rows.add_done(store, 1)
        store.end_run({"status": "completed"})
    (journal_folder(harness.path) / "00000001-0123456789abcdef.seg").write_bytes(b"THOTHYJ1")
    _opened_by(harness.path.parent, 0o555)
    request.getfixturevalue("nobody")
    assert not publish_if_free(harness.path)  # something waits, and this user cannot publish it
    assert report_data(harness.path)["run"]["num_done"] == 1
    with pytest.raises(StoreError) as caught:
        Store.open(harness.path)
    assert caught.value.hint


def test_a_journal_folder_that_is_not_writable_is_a_clear_error(
    harness: Any, rows: Any, request: Any
) -> None:
    with harness.run() as store:
        rows.add_done(store, 1)
        store.end_run({"status": "completed"})
    _opened_by(harness.path.parent, 0o777)
    harness.path.chmod(0o666)
    request.getfixturevalue("nobody")
    with pytest.raises(StoreError, match="journal folder"):
        Store.open(harness.path)
