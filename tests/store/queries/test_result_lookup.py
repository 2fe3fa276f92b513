"""Reruns find what is answered: from the database, from the index while a reader blocks it, and
never from an index that belongs to another state of the file."""

import os
import shutil
from typing import Any

import duckdb
import pytest

from thothy_batch.errors import StoreError
from thothy_batch.store.files import journal_folder
from thothy_batch.store.store import Store


def _first_night(night: Any, rows: Any, run_id: str = "r1", items: Any = (1, 2)) -> None:
    with night.run(run_id) as store:
        for item in items:
            rows.add_done(store, item)
        store.end_run({"status": "completed"})


def _results(night: Any, *keys: str) -> dict[str, Any]:
    store = Store.open(night.path)
    try:
        return store.cached_results(keys)
    finally:
        store.close()


def test_the_latest_success_wins_over_any_failure(night: Any, rows: Any) -> None:
    with night.run("r1") as store:
        rows.add_failed(store, 1)
        rows.add_done(store, 1, verdict="flagged")
        rows.add_failed(store, 2, code="engine_error", message="first", attempt=1)
        rows.add_failed(store, 2, message="second", attempt=2)
        store.end_run({"status": "completed"})
    with night.run("r2") as store:
        rows.add_failed(store, 1)  # --force that failed: the artifact is still there
        row = rows.artifact(7, artifact_id="a7", request_key="k1", verdict="flagged")
        store.add("artifacts", row)
        store.end_run({"status": "completed"})
    found = _results(night, "k1", "k2", "k3", "")
    assert set(found) == {"k1", "k2"}
    k1, k2 = found["k1"], found["k2"]
    assert (k1.failed, k1.artifact_id, k1.item_id, k1.verdict) == (False, "a7", "7", "flagged")
    assert k1.artifact_ids == {"a1", "a7"}
    assert (k2.failed, k2.code, k2.message, k2.attempt) == (True, "invalid_output", "second", 2)
    assert (k2.run_id, k2.job, k2.item_id) == ("r1", "j", "2")


@pytest.mark.parametrize("blocked", [False, True], ids=["readable", "blocked"])
def test_index_and_database_give_the_same_answers(night: Any, rows: Any, blocked: bool) -> None:
    with night.run("r1") as store:
        for item in range(5):
            rows.add_done(store, item)
            if item == 2:
                store.publish()
        place = {"artifact_id": "c", "job": "k", "kind": "hook", "item_id": "x"}
        store.add_copy({**place, "request_key": "k4"}, "a4")
        rows.add_failed(store, 9, message="é\n\u2028")
        store.end_run({"status": "completed"})
    keys = [f"k{n}" for n in range(12)]
    from_database = _results(night, *keys)
    assert set(from_database) == {"k0", "k1", "k2", "k3", "k4", "k9"}
    assert from_database["k4"].artifact_ids == {"a4", "c"}
    assert from_database["k4"].verdict == "ok"
    if blocked:
        with night.reader(read_only=False):
            assert _results(night, *keys) == from_database


def test_a_copy_that_waits_in_the_journal_has_its_sources_verdict(night: Any, rows: Any) -> None:
    _first_night(night, rows)
    with night.reader(read_only=False):
        with night.run("r2") as store:
            place = {"artifact_id": "c", "job": "k", "kind": "hook", "item_id": "x"}
            store.add_copy({**place, "request_key": "k1"}, "a1")
            store.end_run({"status": "completed"})
        result = _results(night, "k1")["k1"]
    assert (result.artifact_id, result.verdict) == ("c", "ok")
    assert result.artifact_ids == {"a1", "c"}


def test_a_deleted_database_is_a_fresh_start(night: Any, rows: Any) -> None:
    _first_night(night, rows)
    night.path.unlink()
    assert _results(night, "k1") == {}
    with night.reader(read_only=False):  # and the index has followed
        assert _results(night, "k1") == {}


def test_an_older_copy_of_the_database_is_believed_and_not_the_index(night: Any, rows: Any) -> None:
    _first_night(night, rows, "r1", [1])
    old = night.path.with_name("old.duckdb")
    shutil.copy(night.path, old)
    _first_night(night, rows, "r2", [2])
    shutil.copy(old, night.path)
    assert set(_results(night, "k1", "k2")) == {"k1"}
    _first_night(night, rows, "r3", [3])  # as many merges as the lost state had
    with night.reader(read_only=False):
        assert set(_results(night, "k1", "k2", "k3")) == {"k1", "k3"}


def test_rows_that_somebody_deleted_are_open_again(night: Any, rows: Any) -> None:
    _first_night(night, rows)
    with duckdb.connect(str(night.path)) as connection:
        connection.execute("DELETE FROM artifacts WHERE item_id = '1'")
    assert set(_results(night, "k1", "k2")) == {"k2"}
    with night.reader(read_only=False):
        assert set(_results(night, "k1", "k2")) == {"k2"}


@pytest.mark.parametrize("damage", ["head", "lines", "both gone", "half a head"])
def test_a_damaged_index_is_rebuilt(night: Any, rows: Any, damage: str) -> None:
    _first_night(night, rows)
    folder = journal_folder(night.path)
    head, lines = folder / "answers.json", folder / "answers.jsonl"
    if damage == "head":
        head.unlink()
    elif damage == "lines":
        lines.write_bytes(lines.read_bytes()[:-9])
    elif damage == "half a head":
        head.write_bytes(head.read_bytes()[:20])
    else:
        shutil.rmtree(folder)
    assert set(_results(night, "k1", "k2")) == {"k1", "k2"}
    with night.reader(read_only=False):
        assert set(_results(night, "k1", "k2")) == {"k1", "k2"}


@pytest.mark.parametrize("read_only", [True, False])
def test_a_store_without_its_journal_folder_answers_while_it_is_blocked(
    night: Any, rows: Any, read_only: bool
) -> None:
    """Guessing that nothing is answered would compute the whole night again."""
    _first_night(night, rows)
    shutil.rmtree(journal_folder(night.path))
    with night.reader(read_only=read_only):
        assert set(_results(night, "k1", "k2", "k3")) == {"k1", "k2"}
        assert os.listdir(journal_folder(night.path)) == []


def test_a_folder_in_the_place_of_the_index_is_named(night: Any, rows: Any) -> None:
    _first_night(night, rows)
    head = journal_folder(night.path) / "answers.json"
    head.unlink()
    head.mkdir()
    with pytest.raises(StoreError, match=r"answers\.json") as caught:
        Store.open(night.path)
    assert caught.value.hint
