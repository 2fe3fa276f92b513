"""Every entry of every run is in run_items once, however the run ended."""

from pathlib import Path
from typing import Any

import pytest

from thothy_batch.errors import StoreError
from thothy_batch.records import EntryKey
from thothy_batch.store import publisher
from thothy_batch.store.database import run_summary
from thothy_batch.store.files import journal_folder
from thothy_batch.store.journal import open_entries
from thothy_batch.store.journal.segment import MARKER, read_segment, segment_paths
from thothy_batch.store.leftovers import publish_if_free
from thothy_batch.store.queries.result_index import ResultIndex
from thothy_batch.store.store import Store

JOBS = [{"job": "j", "kind": "summary", "num_items": 5}, {"job": "t", "num_items": 4}]
ENTRIES = [
    *(EntryKey("j", str(n)) for n in range(1, 6)),
    *(EntryKey("t", item, language) for item in ("é", "1") for language in ("de", "fr")),
]
ALL = {(e.job, e.item_id, e.variant) for e in ENTRIES}


@pytest.fixture(autouse=True)
def _short_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_entries, "_MAX_ENTRIES", 2)


def begun(harness: Any, run_id: str = "r1") -> Store:
    """A run whose process is thought to die: never ended, never closed, no lock."""
    store = Store.open(harness.path)
    store.begin_run({"run_id": run_id, "name": "night", "jobs": JOBS}, ENTRIES)
    return store


def assert_listed(harness: Any, run_id: str, **counts: int) -> None:
    """All entries are there once, those not reached with their reason, and nothing waits."""
    items = harness.query(
        "SELECT job, item_id, variant, status, reason FROM run_items WHERE run_id = ?", run_id
    )
    assert sorted(item[:3] for item in items) == sorted(ALL)
    reasons = {(status, reason) for *_, status, reason in items}
    assert reasons <= {("done", None), ("failed", None), ("not_run", "killed")}
    run = harness.row("SELECT * FROM runs WHERE run_id = ?", run_id)
    assert run["num_items"] == len(ALL)
    for status in ("done", "failed", "reused", "not_run"):
        found = sum(item[3] == status for item in items)
        assert run[f"num_{status}"] == found == counts.get(status, 0)
    stats = "SELECT job, num_items FROM job_stats WHERE run_id = ? ORDER BY job"
    assert harness.query(stats, run_id) == [("j", 5), ("t", 4)]
    assert harness.query("SELECT count(*) FROM open_entries") == [(0,)]


def test_records_hold_entries_of_one_job_in_their_order() -> None:
    rows = list(open_entries.open_rows(iter(ENTRIES)))
    assert [row["item_ids"] for row in rows] == [
        *(["1", "2"], ["3", "4"], ["5"]),
        *(["é", "é"], ["1", "1"]),
    ]
    assert [row.get("variants") for row in rows] == [None] * 3 + [["de", "fr"]] * 2


@pytest.mark.few(1)
@pytest.mark.parametrize("published", [False, True], ids=["journal", "database"])
def test_a_killed_run_lists_what_it_did_not_reach(harness: Any, rows: Any, published: bool) -> None:
    store = begun(harness)
    rows.add_done(store, 1)
    rows.add_failed(store, 2)
    place = {"job": "t", "item_id": "é", "variant": "fr", "artifact_id": "at"}
    store.add("artifacts", {**place, "kind": "translation", "output_tokens": 1})
    store.add("run_items", {**place, "status": "done"})
    store._journal.commit()
    if published:
        assert store.publish()
        assert harness.query("SELECT count(*) FROM run_items") == [(3,)]
        assert harness.query("SELECT sum(len(item_ids)) FROM open_entries") == [(9,)]
    for _ in range(2):
        Store.open(harness.path).close()
        assert_listed(harness, "r1", done=2, failed=1, not_run=6)
    assert harness.query("SELECT count(*) FROM latest_artifacts") == [(2,)]


def test_a_run_that_ends_by_itself_leaves_no_open_entries(harness: Any, rows: Any) -> None:
    store = begun(harness)
    store.publish()
    assert harness.query("SELECT count(*) > 0 FROM open_entries") == [(True,)]
    for entry in ENTRIES:
        place = {"job": entry.job, "item_id": entry.item_id, "variant": entry.variant}
        store.add("run_items", {**place, "status": "failed"})
    assert store.end_run({"status": "completed"})
    assert_listed(harness, "r1", failed=9)
    store.close()


def test_the_end_of_a_run_and_its_open_entries_go_in_one_transaction(
    harness: Any, rows: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill right after the merge that counts the run: no later step is needed."""
    store = begun(harness)
    rows.add_done(store, 1)
    monkeypatch.setattr(publisher, "mark_killed_runs", _die)
    with pytest.raises(StoreError, match="died"):
        store.end_run({"status": "stopped"})
    assert harness.query("SELECT status FROM runs") == [("stopped",)]
    assert harness.query("SELECT count(*) FROM open_entries") == [(0,)]


def test_a_reader_keeps_the_merge_for_the_next_command(harness: Any, rows: Any) -> None:
    """The dead run and the one after it, of the same entries anew, come in one merge."""
    with harness.reader(read_only=False):
        dead = begun(harness)
        rows.add_done(dead, 1, text="first")
        dead._journal.commit()
        again = begun(harness, "r2")
        rows.add_done(again, 1, text="forced")  # the same artifact_id
        rows.add_done(again, 2)
        again._journal.commit()
        assert not publish_if_free(harness.path)
    assert publish_if_free(harness.path)
    assert_listed(harness, "r1", done=1, not_run=8)
    assert_listed(harness, "r2", done=2, not_run=7)
    assert harness.query("SELECT text FROM artifacts WHERE artifact_id = 'a1'") == [("forced",)]


@pytest.mark.rest
def test_a_forced_run_after_a_killed_one_has_its_own_list(harness: Any, rows: Any) -> None:
    dead = begun(harness)
    rows.add_done(dead, 1)
    dead.publish()
    again = begun(harness, "r2")
    assert again.recovered.killed_runs == ["r1"]
    again.publish()  # while it goes on its own open entries stay
    assert harness.query("SELECT DISTINCT run_id FROM open_entries") == [("r2",)]
    rows.add_done(again, 1)
    again._journal.commit()
    assert publish_if_free(harness.path)
    for run_id in ("r1", "r2"):
        assert_listed(harness, run_id, done=1, not_run=8)


@pytest.mark.rest
def test_a_kill_between_any_two_writes_lists_and_counts_what_was_recorded(
    harness: Any, rows: Any
) -> None:
    """Each round a run is begun, and its journal is cut behind another record."""
    num_recorded = [0, 0, 2, 4, 5, 7, 9, 9, 9, 9]  # by records: the run, five of entries, others
    for number, num in enumerate(num_recorded):
        run_id = f"r{number}"
        _keep(_journal_of_a_short_run(harness, rows, run_id), number)
        assert publish_if_free(harness.path)
        assert harness.query("SELECT count(*) FROM open_entries") == [(0,)]
        found = harness.query(
            "SELECT job, item_id, variant FROM run_items WHERE run_id = ?", run_id
        )
        assert sorted(found) == sorted((e.job, e.item_id, e.variant) for e in ENTRIES[:num])
        counted = harness.query("SELECT num_items FROM runs WHERE run_id = ?", run_id)
        assert counted == ([(num,)] if number else [])


@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("owner", "step"),
    [
        (publisher, "mark_killed_runs"),
        (run_summary, "count_run"),
        (ResultIndex, "extend"),
        (publisher, "_remove"),
    ],
    ids=["before the burial", "within it", "before the index", "before the removal"],
)
def test_a_kill_while_publishing_changes_nothing(
    harness: Any, rows: Any, monkeypatch: pytest.MonkeyPatch, owner: object, step: str
) -> None:
    dead = begun(harness)
    rows.add_done(dead, 1)
    dead._journal.commit()
    with monkeypatch.context() as patched:
        patched.setattr(owner, step, _die)
        with pytest.raises(StoreError, match="died"):
            Store.open(harness.path)
    for _ in range(2):
        assert publish_if_free(harness.path)
        assert_listed(harness, "r1", done=1, not_run=8)


def _die(*_: object, **__: object) -> Any:
    raise StoreError("died here")


def _journal_of_a_short_run(harness: Any, rows: Any, run_id: str) -> Path:
    """The one segment of a run that goes no further than its first artifact: ten records."""
    store = begun(harness, run_id)
    rows.add_done(store, 1)
    store._journal.commit()
    (path,) = segment_paths(journal_folder(harness.path))
    assert len(read_segment(path).records) == 10
    return path


def _keep(path: Path, num_records: int) -> None:
    """Cuts a segment in the middle of the record behind the first so many."""
    data = path.read_bytes()
    starts = [n for n in range(len(data)) if data.startswith(MARKER, n)]
    path.write_bytes(data[: starts[num_records] + 9])


@pytest.mark.few(1)
@pytest.mark.parametrize("stop_reason", ["store_failed", "counts_do_not_add_up", "engine_failed"])
def test_what_a_failed_run_did_not_reach_has_a_reason_of_the_closed_list(
    harness: Any, stop_reason: str
) -> None:
    """The run's own row says what failed."""
    store = begun(harness)
    store.fail_run({"run_id": "r1", "status": "failed", "stop_reason": stop_reason, "exit_code": 5})
    store.close()
    publish_if_free(harness.path)
    found = harness.query("SELECT DISTINCT status, reason FROM run_items")
    assert found == [("not_run", "engine_failed")]
    assert harness.query("SELECT stop_reason, num_items FROM runs") == [(stop_reason, len(ALL))]
