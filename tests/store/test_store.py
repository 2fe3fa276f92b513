"""A run's rows reach DuckDB once, whoever else has the file open."""

import json
import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest

from thothy_batch.errors import StoreError
from thothy_batch.records import EngineTotals
from thothy_batch.store.files import journal_folder
from thothy_batch.store.journal.segment import segment_paths
from thothy_batch.store.leftovers import publish_if_free
from thothy_batch.store.store import Store


def test_a_run_is_in_the_tables_and_nothing_else_is_left(blank: Any, rows: Any) -> None:
    with blank.run() as store:
        rows.add_done(store, 1, data={"a": [1, float("nan")]}, flags=["x"], seed=2**62)
        rows.add_failed(store, 2)
        assert store.end_run({"status": "completed", "exit_code": 1, "engine_s": 2.0})
    found = blank.row("SELECT * FROM artifacts")
    assert json.loads(found["data"]) == {"a": [1, None]}
    assert (found["text"], found["flags"], found["seed"]) == ("text of 1", ["x"], 2**62)
    assert blank.row("SELECT status, exit_code, num_items FROM runs") == {
        "status": "completed",
        "exit_code": 1,
        "num_items": 2,
    }
    assert sorted(os.listdir(blank.path.parent)) == [blank.path.name, f"{blank.path.name}.journal"]
    left = sorted(os.listdir(journal_folder(blank.path)))
    assert left == ["answers.json", "answers.jsonl", "lock"]


@pytest.mark.usefixtures("virtual_clock")
def test_rows_are_published_while_the_run_goes_on(harness: Any, rows: Any) -> None:
    with harness.run() as store:
        rows.add_done(store, 1)
        store.tick()  # a run that just began publishes at once
        assert harness.query("SELECT status FROM runs") == [("running",)]
        assert harness.query("SELECT item_id FROM run_items") == [("1",)]
        rows.add_done(store, 2)
        store.tick()  # the next merge is due some seconds later
        assert harness.query("SELECT count(*) FROM artifacts") == [(1,)]
        assert store.publish()
        assert harness.query("SELECT count(*) FROM artifacts") == [(2,)]
        store.end_run({"status": "completed"})


@pytest.mark.usefixtures("virtual_clock")
def test_tick_syncs_a_row_within_a_second(harness: Any, rows: Any) -> None:
    with harness.run() as store:
        store.publish()
        rows.add_done(store, 1)
        (path,) = segment_paths(journal_folder(harness.path))
        before = path.stat().st_size
        deadline = time.monotonic() + 1.0
        while time.monotonic() < deadline:
            store.tick()
            time.sleep(0.05)
        assert path.stat().st_size > before
        store.end_run({"status": "completed"})


@pytest.mark.few(1)
@pytest.mark.parametrize("read_only", [True, False], ids=["read-only", "read-write"])
def test_a_reader_during_the_whole_run_changes_nothing(
    harness: Any, rows: Any, read_only: bool
) -> None:
    with harness.run("r1") as store:
        rows.add_done(store, 1)
        store.end_run({"status": "completed"})
    with harness.reader(read_only=read_only):
        with harness.run("r2") as store:
            assert not store.publish()
            assert store.cached_results(["k1"])["k1"].artifact_id == "a1"
            rows.add_done(store, 2)
            store.tick()
            rows.add_failed(store, 3)
            assert not store.end_run({"status": "completed", "engine_s": 1.0})
        assert not publish_if_free(harness.path)
        with harness.run("r3") as store:  # the next run knows all of it
            results = store.cached_results(["k1", "k2", "k3", "k4"])
            assert results["k1"].artifact_id == "a1"
            assert results["k2"].artifact_id == "a2"
            assert results["k3"].failed
            assert results["k3"].code == "invalid_output"
            assert "k4" not in results
            assert not store.end_run({"status": "completed"})
    assert publish_if_free(harness.path)
    assert harness.query("SELECT run_id, status, num_done, num_failed FROM runs ORDER BY 1") == [
        ("r1", "completed", 1, 0),
        ("r2", "completed", 1, 1),
        ("r3", "completed", 0, 0),
    ]
    assert harness.query("SELECT artifact_id FROM artifacts ORDER BY 1") == [("a1",), ("a2",)]
    assert segment_paths(journal_folder(harness.path)) == []


def test_a_run_that_died_is_marked_killed_with_counts_that_add_up(harness: Any, rows: Any) -> None:
    jobs = [
        {"job": "j", "kind": "summary", "num_items": 10},
        {"job": "later", "kind": "hook", "num_items": 7},
    ]
    store = _abandoned(harness, jobs)
    rows.add_done(store, 1)
    rows.add_failed(store, 2)
    store.record_totals(
        EngineTotals(engine_s=3.5, prefill_tokens=100, output_tokens=50, wasted_tokens=2)
    )
    store._journal.commit()
    assert publish_if_free(harness.path)  # what `status` and `report` do first
    run = harness.row("SELECT * FROM runs")
    assert (run["status"], run["stop_reason"], run["exit_code"]) == ("failed", "killed", None)
    assert run["finished_at"] >= run["started_at"]
    assert run["engine_s"] == 3.5
    assert run["wasted_tokens"] == 2 + 150 - (10 - 4 + 5)  # recomputed, and lost
    assert run["num_items"] == 17
    assert run["num_items"] == sum(run[f"num_{n}"] for n in ("done", "failed", "reused", "not_run"))
    stats = harness.query(
        "SELECT job, kind, num_items, num_done, num_failed, num_not_run FROM job_stats ORDER BY job"
    )
    assert stats == [("j", "summary", 10, 1, 1, 8), ("later", "hook", 7, 0, 0, 7)]


def test_a_dead_run_is_counted_before_the_next_run_replaces_its_rows(
    harness: Any, rows: Any
) -> None:
    """Both wait in the journal: a reader held the file until after the second run."""
    with harness.run("r0") as store:
        store.end_run({"status": "completed"})
    with harness.reader(read_only=False):
        dead = _abandoned(harness, [{"job": "j", "num_items": 3}], run_id="r1")
        rows.add_done(dead, 1)
        dead._journal.commit()
        with harness.run("r2") as store:
            rows.add_done(store, 1, text="made anew")  # --force: same artifact_id
            store.end_run({"status": "completed"})
    assert publish_if_free(harness.path)
    counts = "SELECT run_id, status, num_done, output_tokens, num_not_run FROM runs ORDER BY 1"
    assert harness.query(counts)[1:] == [
        ("r1", "failed", 1, 5, 2),
        ("r2", "completed", 1, 5, 0),
    ]
    assert harness.query("SELECT run_id, text FROM artifacts") == [("r2", "made anew")]


@pytest.mark.rest
def test_a_backlog_is_merged_piece_by_piece_while_the_run_goes_on(
    harness: Any, rows: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("thothy_batch.store.publisher._BACKLOG_PAUSE_S", 0.0)
    with harness.reader(read_only=False):
        dead = _abandoned(harness, [])
        rows.add_done(dead, 0)
        dead._journal.commit()
        store = Store.open(harness.path)
        store.begin_run({"run_id": "r2", "name": "night"})
        for item in range(1, 6):
            rows.add_done(store, item)
            store._journal.rotate()
    store._publisher.hurry()
    counts = []
    while len(counts) < 10 and (not counts or counts[-1] < 6):
        store.tick()
        counts += harness.query("SELECT count(*)::INTEGER FROM artifacts")[0]
    assert counts == sorted(set(counts))
    assert len(counts) >= 3
    store.end_run({"status": "completed"})
    store.close()
    ends = harness.query("SELECT run_id, status, num_done FROM runs ORDER BY run_id")
    assert ends == [("r1", "failed", 1), ("r2", "completed", 5)]


def test_a_segment_counts_once_even_if_it_could_not_be_removed(harness: Any, rows: Any) -> None:
    with harness.run() as store:
        store.publish()
        rows.add_done(store, 1)
        store._journal.commit()
        (path,) = segment_paths(journal_folder(harness.path))
        data = path.read_bytes()
        store.end_run({"status": "completed"})
    path.write_bytes(data)  # as if the machine had died between the merge and the removal
    assert publish_if_free(harness.path)
    assert harness.query("SELECT count(*) FROM run_items") == [(1,)]
    assert not path.exists()


def test_notes_on_segments_are_kept_for_a_month(harness: Any, rows: Any) -> None:
    with harness.run() as store:
        rows.add_done(store, 1)
        store.end_run({"status": "completed", "exit_code": 0})
    with duckdb.connect(str(harness.path)) as connection:
        connection.execute("INSERT INTO merged_segments VALUES ('young', now())")
        for days in (29, 31):
            merged_at = datetime.now(UTC) - timedelta(days=days)
            note = [f"of {days} days", merged_at]
            connection.execute("INSERT INTO merged_segments VALUES (?, ?)", note)
    with harness.run(run_id="r2") as store:
        rows.add_done(store, 2)
        store.end_run({"status": "completed", "exit_code": 0})
    left = {name for (name,) in harness.query("SELECT segment_id FROM merged_segments")}
    assert {"young", "of 29 days"} < left
    assert "of 31 days" not in left


def test_torn_ends_are_cut_at_open(harness: Any, rows: Any) -> None:
    store = _abandoned(harness, [])
    store.publish()
    rows.add_done(store, 1)
    store._journal.commit()
    (path,) = segment_paths(journal_folder(harness.path))
    path.write_bytes(path.read_bytes() + b"\xf5rec torn")
    with harness.run("r2") as again:
        assert again.recovered.cut_bytes == 9
        assert again.recovered.num_records == 2
        assert again.recovered.killed_runs == ["r1"]
        again.end_run({"status": "completed"})
    assert harness.query("SELECT count(*) FROM artifacts") == [(1,)]


def test_the_path_through_a_symlink_is_the_same_store(
    harness: Any, rows: Any, tmp_path: Path
) -> None:
    with harness.run() as store:
        rows.add_done(store, 1)
        store.end_run({"status": "completed"})
    link = tmp_path / "link.duckdb"
    link.symlink_to(harness.path)
    assert journal_folder(link) == journal_folder(harness.path)
    store = Store.open(link)
    assert "k1" in store.cached_results(["k1"])
    store.close()


def test_cells_that_duckdb_would_refuse_are_cleaned_on_the_way_in(harness: Any, rows: Any) -> None:
    text = "half \ud83d of a pair, a \x00 and \x1b[31m"
    with harness.run(manifest={"text": text, "x": float("inf")}) as store:
        rows.add_done(store, 1, text=text, data=[text], queue_s=float("nan"), item_id=text)
        store.end_run({"status": "completed"})
    found = harness.row("SELECT * FROM artifacts")
    assert found["text"] == text.replace("\ud83d", "?")
    assert json.loads(found["data"]) == [found["text"]]
    assert found["queue_s"] is None
    assert harness.query("SELECT item_id FROM latest_artifacts") == [(found["text"],)]


def test_unknown_columns_and_impossible_numbers_are_refused_at_once(
    harness: Any, rows: Any
) -> None:
    with harness.run() as store:
        with pytest.raises(KeyError):
            store.add("artifacts", {"artifact_id": "a", "colour": "red"})
        with pytest.raises(ValueError, match="does not fit"):
            store.add("artifacts", {"artifact_id": "a", "output_tokens": 2**31})
        store.end_run({"status": "completed"})
    assert harness.query("SELECT count(*) FROM artifacts") == [(0,)]


def test_a_directory_and_a_missing_folder_are_clear_errors(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="is a directory"):
        Store.open(tmp_path)
    with pytest.raises(StoreError, match="does not exist"):
        Store.open(tmp_path / "no" / "s.duckdb")
    assert list(tmp_path.iterdir()) == []


def _abandoned(harness: Any, jobs: Any, run_id: str = "r1") -> Store:
    """A store whose process is thought to have died: never ended, never closed, no lock."""
    store = Store.open(harness.path)
    store.begin_run({"run_id": run_id, "name": "night", "jobs": jobs})
    return store
