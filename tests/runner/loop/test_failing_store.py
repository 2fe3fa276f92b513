"""A run that the disk leaves no room for ends as failed, with exit code 5, and is recorded so."""

import errno
import json
from typing import Any

import pytest

from thothy_batch.errors import StoreError
from thothy_batch.runner.commands.report import report_document
from thothy_batch.runner.monitoring.dead_run import publish_leftovers
from thothy_batch.store.files import journal_folder, status_path
from thothy_batch.store.journal import journal
from thothy_batch.store.store import Store

ENTRIES = "select status, reason, count(*) from run_items where run_id = ? group by all"


class Disk:
    """The journal's disk: full once the engine computes, or all but `room` bytes of it."""

    def __init__(self, project: Any, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
        self._reserve = journal_folder(project.store) / "reserve.tmp"
        self._room = room
        self.is_full = False
        self._write = journal._write_at
        monkeypatch.setattr(journal, "_write_at", self._write_if_there_is_room)
        monkeypatch.setattr(project.notes, "phase", self._see)

    def _see(self, text: str) -> None:
        self.is_full = self.is_full or text == "computing"

    def _write_if_there_is_room(self, fd: int, data: bytes, offset: int) -> None:
        room = 0 if self._reserve.exists() else self._room
        if self.is_full and len(data) > room:
            raise OSError(errno.ENOSPC, "No space left on device")
        self._write(fd, data, offset)


@pytest.mark.few(1)
@pytest.mark.parametrize("room", [10**6, 1000], ids=["its reserve", "a last record"])
def test_a_full_disk_ends_the_run_as_failed_and_not_killed(
    raw_project: Any, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    Disk(raw_project, monkeypatch, room)
    run = raw_project.run()
    assert isinstance(run.error, StoreError)
    assert (run.exit_code, run.status, run.stop_reason) == (5, "failed", "store_failed")
    status = json.loads(status_path(raw_project.store).read_text())
    assert (status["state"], status["status"], status["exit_code"]) == ("finished", "failed", 5)
    monkeypatch.undo()  # there is space again
    assert publish_leftovers(raw_project.store)
    (row,) = raw_project.query("select status, stop_reason, exit_code, num_items from runs")
    assert row == ("failed", "store_failed", 5, 12)
    assert raw_project.query(
        "select count(*), count(distinct item_id) from run_items where run_id = ?", run.run_id
    ) == [(12, 12)]
    left = [row for row in raw_project.query(ENTRIES, run.run_id) if row[0] != "done"]
    assert [row[:2] for row in left] in ([], [("not_run", "engine_failed")])
    counted = "select num_done, num_failed, num_reused, num_not_run, output_tokens from runs"
    (found,) = raw_project.query(counted)
    assert found[:4] == tuple(
        run.counts[f"num_{name}"] for name in ("done", "failed", "reused", "not_run")
    )
    assert found[4] == run.output_tokens
    kept = found[0]
    again = raw_project.run()
    assert (again.exit_code, again.counts["num_done"]) == (0, 12 - kept)
    assert "reserve.tmp" not in {path.name for path in journal_folder(raw_project.store).iterdir()}


@pytest.mark.rest
def test_no_finished_row_is_counted_that_the_disk_has_no_room_for(
    raw_project: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is durable of what was computed: the disk takes the end of the run alone."""
    monkeypatch.setattr("thothy_batch.store.store._COMMIT_AFTER_S", 1e9)
    Disk(raw_project, monkeypatch, 2000)
    run = raw_project.run()
    monkeypatch.undo()
    assert (run.exit_code, run.counts["num_done"], run.output_tokens) == (5, 0, 0)
    assert run.counts["num_not_run"] == run.counts["num_items"] == 12
    assert run.wasted_tokens > 0
    assert publish_leftovers(raw_project.store)
    found = raw_project.query(
        "select num_done, num_not_run, output_tokens, wasted_tokens from runs"
    )
    assert found == [(0, 12, 0, run.wasted_tokens)]


def test_a_store_that_cannot_grow_is_read_as_it_is(
    raw_project: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = raw_project.run()

    def full(path: Any) -> Store:
        raise StoreError("the store cannot grow: the disk is full")

    monkeypatch.setattr(Store, "open", full)
    monkeypatch.setattr("thothy_batch.store.leftovers.segment_paths", lambda folder: [folder])
    assert report_document(raw_project.store, None)["run"]["run_id"] == run.run_id
    assert "the disk is full" in caplog.text


@pytest.mark.rest
def test_a_database_that_cannot_take_the_end_ends_the_run_as_failed(
    raw_project: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of it is in the journal: the row of the run says what its process said."""

    end_run = Store.end_run

    def publish(store: Store) -> bool:
        raise StoreError("the store cannot grow: the disk is full")

    def full_at_the_end(store: Store, row: Any) -> bool:
        monkeypatch.setattr(Store, "publish", publish)
        return end_run(store, row)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "end_run", full_at_the_end)
        run = raw_project.run()
    monkeypatch.undo()
    assert (run.exit_code, run.stop_reason, run.counts["num_done"]) == (5, "store_failed", 12)
    assert publish_leftovers(raw_project.store)
    found = raw_project.query("select status, stop_reason, exit_code, num_done from runs")
    assert found == [("failed", "store_failed", 5, 12)]
    assert raw_project.run().counts["num_reused"] == 12
