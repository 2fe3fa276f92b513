"""Reruns find cached results: in the database, in the index while a reader blocks it, and
never from an index that belongs to another state of the file."""

import os
import shutil
from typing import Any

import duckdb
import pytest

from thothy_batch.errors import StoreError
from thothy_batch.store.files import journal_folder
from thothy_batch.store.store import Store


def _complete_run(harness: Any, rows: Any, run_id: str = "r1", items: Any = (1, 2)) -> None:
    with harness.run(run_id) as store:
        for item in items:
            rows.add_done(store, item)
        store.end_run({"status": "completed"})


def _results(harness: Any, *keys: str) -> dict[str, Any]:
    store = Store.open(harness.path)
    try:
        return store.cached_results(keys)
    finally:
        store.close()


def test_the_latest_success_wins_over_any_failure(harness: Any, rows: Any) -> None:
    with harness.run("r1") as store:
        rows.add_failed(store, 1)
        rows.add_done(store, 1, verdict="flagged")
        rows.add_failed(store, 2, code="engine_error", message="first", attempt=1)
        rows.add_failed(store, 2, message="second", attempt=2)
        store.end_run({"status": "completed"})
    with harness.run("r2") as store:
        rows.add_failed(store, 1)  # --force that failed: the artifact is still there
        row = rows.artifact(7, artifact_id="a7", request_key="k1", verdict="flagged")
        store.add("artifacts", row)
        store.end_run({"status": "completed"})
    found = _results(harness, "k1", "k2", "k3", "")
    assert set(found) == {"k1", "k2"}
    k1, k2 = found["k1"], found["k2"]
    assert (k1.failed, k1.artifact_id, k1.item_id, k1.verdict) == (False, "a7", "7", "flagged")
    assert k1.verdicts.keys() == {"a1", "a7"}
    assert (k2.failed, k2.code, k2.message, k2.attempt) == (True, "invalid_output", "second", 2)
    assert (k2.run_id, k2.job, k2.item_id) == ("r1", "j", "2")


@pytest.mark.few(1)
@pytest.mark.parametrize("blocked", [False, True], ids=["readable", "blocked"])
def test_index_and_database_give_the_same_answers(harness: Any, rows: Any, blocked: bool) -> None:
    with harness.run("r1") as store:
        for item in range(5):
            rows.add_done(store, item)
            if item == 2:
                store.publish()
        place = {"artifact_id": "c", "job": "k", "kind": "hook", "item_id": "x"}
        store.add_copy({**place, "request_key": "k4"}, "a4")
        rows.add_failed(store, 9, message="é\n\u2028")
        store.end_run({"status": "completed"})
    keys = [f"k{n}" for n in range(12)]
    from_database = _results(harness, *keys)
    assert set(from_database) == {"k0", "k1", "k2", "k3", "k4", "k9"}
    assert from_database["k4"].verdicts.keys() == {"a4", "c"}
    assert from_database["k4"].verdict == "ok"
    if blocked:
        with harness.reader(read_only=False):
            assert _results(harness, *keys) == from_database


def test_a_copy_that_waits_in_the_journal_has_its_sources_verdict(harness: Any, rows: Any) -> None:
    _complete_run(harness, rows)
    with harness.reader(read_only=False):
        with harness.run("r2") as store:
            place = {"artifact_id": "c", "job": "k", "kind": "hook", "item_id": "x"}
            store.add_copy({**place, "request_key": "k1"}, "a1")
            store.end_run({"status": "completed"})
        result = _results(harness, "k1")["k1"]
    assert (result.artifact_id, result.verdict) == ("c", "ok")
    assert result.verdicts.keys() == {"a1", "c"}


def test_a_deleted_database_is_a_fresh_start(harness: Any, rows: Any) -> None:
    _complete_run(harness, rows)
    harness.path.unlink()
    assert _results(harness, "k1") == {}
    with harness.reader(read_only=False):  # and the index has followed
        assert _results(harness, "k1") == {}


@pytest.mark.rest
def test_an_older_copy_of_the_database_is_believed_and_not_the_index(
    harness: Any, rows: Any
) -> None:
    _complete_run(harness, rows, "r1", [1])
    old = harness.path.with_name("old.duckdb")
    shutil.copy(harness.path, old)
    _complete_run(harness, rows, "r2", [2])
    shutil.copy(old, harness.path)
    assert set(_results(harness, "k1", "k2")) == {"k1"}
    _complete_run(harness, rows, "r3", [3])  # as many merges as the lost state had
    with harness.reader(read_only=False):
        assert set(_results(harness, "k1", "k2", "k3")) == {"k1", "k3"}


def test_rows_that_somebody_deleted_are_open_again(harness: Any, rows: Any) -> None:
    _complete_run(harness, rows)
    with duckdb.connect(str(harness.path)) as connection:
        connection.execute("DELETE FROM artifacts WHERE item_id = '1'")
    assert set(_results(harness, "k1", "k2")) == {"k2"}
    with harness.reader(read_only=False):
        assert set(_results(harness, "k1", "k2")) == {"k2"}


@pytest.mark.few(1)
@pytest.mark.parametrize("damage", ["head", "lines", "both gone", "half a head"])
def test_a_damaged_index_is_rebuilt(harness: Any, rows: Any, damage: str) -> None:
    _complete_run(harness, rows)
    folder = journal_folder(harness.path)
    head, lines = folder / "answers.json", folder / "answers.jsonl"
    if damage == "head":
        head.unlink()
    elif damage == "lines":
        lines.write_bytes(lines.read_bytes()[:-9])
    elif damage == "half a head":
        head.write_bytes(head.read_bytes()[:20])
    else:
        shutil.rmtree(folder)
    assert set(_results(harness, "k1", "k2")) == {"k1", "k2"}
    with harness.reader(read_only=False):
        assert set(_results(harness, "k1", "k2")) == {"k1", "k2"}


@pytest.mark.few(1)
@pytest.mark.parametrize("read_only", [True, False])
def test_a_store_without_its_journal_folder_answers_while_it_is_blocked(
    harness: Any, rows: Any, read_only: bool
) -> None:
    """Without cached results the whole run would be computed again."""
    _complete_run(harness, rows)
    shutil.rmtree(journal_folder(harness.path))
    with harness.reader(read_only=read_only):
        assert set(_results(harness, "k1", "k2", "k3")) == {"k1", "k2"}
        assert os.listdir(journal_folder(harness.path)) == []


def test_a_folder_in_the_place_of_the_index_is_named(harness: Any, rows: Any) -> None:
    _complete_run(harness, rows)
    head = journal_folder(harness.path) / "answers.json"
    head.unlink()
    head.mkdir()
    with pytest.raises(StoreError, match=r"answers\.json") as caught:
        Store.open(harness.path)
    assert caught.value.hint
