"""Counts, percentiles and shares of a run, checked against figures worked out by hand."""

from datetime import datetime
from typing import Any

import duckdb
import pytest

_COUNTS = ("num_done", "num_failed", "num_reused", "num_not_run")


def _item(store: Any, job: str, item: str, status: str, **more: object) -> None:
    store.add("run_items", {"job": job, "item_id": item, "status": status, **more})


def test_job_stats_and_run_agree_and_add_up(harness: Any, rows: Any) -> None:
    jobs = [
        {"job": "j", "kind": "summary", "priority": 9, "num_items": 8},
        {"job": "k", "kind": "hook", "priority": 1, "num_items": 4},
    ]
    ready = 1_700_000_000.0
    with harness.run(jobs=jobs) as store:
        store.update_run({"engine_ready_at": ready, "engine": {"block_size": 32}})
        for number in range(1, 5):
            rows.add_done(
                store,
                number,
                output_tokens=10 * number,
                queue_s=float(number),
                verdict="flagged" if number == 1 else "ok",
                finish_reason="length" if number == 1 else "stop",
                created_at=ready + 50 + number,
            )
        rows.add_failed(store, 5, wasted_tokens=34, failed_at=ready + 99)
        _item(store, "j", "6", "not_run", reason="deadline")
        rows.add_done(store, 7, job="k", kind="hook", output_tokens=30, queue_s=9.0)
        scalars = {"engine_s": 100.0, "wall_s": 130.0, "load_s": 9.0, "wasted_tokens": 70}
        store.end_run({"status": "stopped", "stop_reason": "deadline", "exit_code": 4, **scalars})
    run = harness.row("SELECT * FROM runs")
    assert [run[n] for n in ("num_items", *_COUNTS)] == [12, 5, 1, 0, 6]
    assert [run[n] for n in ("prompt_tokens", "cached_prompt_tokens")] == [50, 20]
    assert [run[n] for n in ("output_tokens", "wasted_tokens")] == [130, 70]
    assert run["output_tokens_per_s"] == pytest.approx(1.3)
    assert run["artifacts_per_hour"] == pytest.approx(5 * 36)
    assert (run["load_s"], run["wall_s"], run["engine"]) == (9.0, 130.0, '{"block_size": 32}')
    j = harness.row("SELECT * FROM job_stats WHERE job = 'j'")
    k = harness.row("SELECT * FROM job_stats WHERE job = 'k'")
    for stats in (run, j, k):
        assert stats["num_items"] == sum(stats[name] for name in _COUNTS)
    assert [j[n] for n in ("num_items", *_COUNTS)] == [8, 4, 1, 0, 3]
    assert [k[n] for n in ("num_items", *_COUNTS)] == [4, 1, 0, 0, 3]
    assert (j["kind"], j["priority"], j["num_flagged"]) == ("summary", 9, 1)
    assert (j["queue_s_p50"], j["queue_s_p95"]) == (2.5, pytest.approx(3.85))
    assert (j["output_tokens_p50"], j["output_tokens_p95"]) == (25, pytest.approx(38.5))
    assert j["finish_reasons"] == {"length": 1, "stop": 3}
    assert j["first_admitted_at"] == _time(ready + 1)
    assert j["finished_at"] == _time(ready + 99)
    # computed: j 4 * 6 prompt + 100 output + 34 wasted = 158, k 6 + 30 = 36
    assert j["engine_s"] == pytest.approx(100 * 158 / 194)
    assert j["engine_s"] + k["engine_s"] == pytest.approx(run["engine_s"])
    assert k["artifacts_per_hour"] == pytest.approx(3600 / k["engine_s"])


def test_a_run_with_nothing_to_do_has_no_speed_and_no_zero_division(
    harness: Any, rows: Any
) -> None:
    with harness.run("r1") as store:
        rows.add_done(store, 1)
        store.end_run({"status": "completed", "engine_s": 2.0})
    with harness.run("r2", jobs=[{"job": "j", "kind": "summary", "num_items": 1}]) as store:
        _item(store, "j", "1", "reused", artifact_id="a1")
        store.end_run({"status": "completed", "exit_code": 0})
    run = harness.row("SELECT * FROM runs WHERE run_id = 'r2'")
    assert [run[n] for n in ("num_items", *_COUNTS)] == [1, 0, 0, 1, 0]
    assert (run["output_tokens"], run["engine_s"]) == (0, 0)
    assert run["artifacts_per_hour"] is None
    assert harness.query("SELECT run_id FROM latest_artifacts") == [("r1",)]


def test_a_run_without_jobs_and_rows_can_end(harness: Any) -> None:
    with harness.run() as store:
        store.end_run({"status": "failed", "stop_reason": "engine_error", "exit_code": 5})
    run = harness.row("SELECT * FROM runs")
    assert (run["num_items"], run["status"]) == (0, "failed")
    assert harness.query("SELECT * FROM job_stats") == []


def test_copies_take_content_and_not_effort(harness: Any, rows: Any) -> None:
    with harness.run("r1") as store:
        source = {"data": [1], "flags": ["f"], "verdict": "flagged", "output_token_ids": [3, 4]}
        rows.add_done(store, 1, **source)
        place = {"job": "other", "kind": "hook", "request_key": "k1"}
        store.add_copy({**place, "artifact_id": "c1", "item_id": "x"}, "a1")
        _item(store, "other", "x", "reused", artifact_id="c1")
        store.publish()
        store.add_copy({**place, "artifact_id": "c2", "item_id": "y"}, "c3")  # a chain, backwards
        store.add_copy({**place, "artifact_id": "c3", "item_id": "z", "attempt": 7}, "c1")
        _item(store, "other", "y", "reused", artifact_id="c2")
        _item(store, "other", "z", "reused", artifact_id="c3")
        store.end_run({"status": "completed", "engine_s": 1.0})
    for name, item, reused_from in (("c1", "x", "a1"), ("c2", "y", "c3"), ("c3", "z", "c1")):
        row = harness.row("SELECT * FROM artifacts WHERE artifact_id = ?", name)
        assert (row["text"], row["data"], row["flags"]) == ("text of 1", "[1]", ["f"])
        assert (row["job"], row["kind"], row["item_id"]) == ("other", "hook", item)
        assert (row["output_tokens"], row["output_token_ids"]) == (5, [3, 4])
        assert (row["reused_from"], row["run_id"]) == (reused_from, "r1")
        assert (row["engine_s"], row["queue_s"]) == (None, None)
    stats = harness.row("SELECT * FROM job_stats WHERE job = 'other'")
    assert (stats["num_reused"], stats["num_done"], stats["num_flagged"]) == (3, 0, 3)
    assert (stats["output_tokens"], stats["engine_s"], stats["kind"]) == (0, 0, "hook")
    assert harness.query("SELECT output_tokens, num_items FROM runs") == [(5, 4)]


def test_an_artifact_that_somebody_deleted_opens_its_entry_again(harness: Any, rows: Any) -> None:
    """Between the look-up and the merge; the counts still add up and the next run computes it."""
    with harness.run() as store:
        place = {"artifact_id": "c1", "job": "j", "kind": "summary", "item_id": "1"}
        store.add_copy({**place, "request_key": "k"}, "gone")
        _item(store, "j", "1", "reused", artifact_id="c1")
        store.end_run({"status": "completed"})
    assert harness.query("SELECT status, reason, artifact_id FROM run_items") == [
        ("not_run", "engine_failed", None)
    ]
    assert harness.query("SELECT num_items, num_reused, num_not_run FROM runs") == [(1, 0, 1)]


def test_force_replaces_the_artifact_of_the_same_id(harness: Any, rows: Any) -> None:
    with harness.run("r1") as store:
        rows.add_done(store, 1, text="first")
        rows.add_done(store, 2)
        rows.add_done(store, 1, text="better attempt", attempt=2)
        store.end_run({"status": "completed"})
    assert harness.query("SELECT text FROM artifacts WHERE item_id = '1'") == [("better attempt",)]
    with harness.run("r2") as store:
        rows.add_done(store, 1, text="forced")
        store.end_run({"status": "completed"})
    assert harness.query("SELECT text, run_id FROM artifacts WHERE item_id = '1'") == [
        ("forced", "r2")
    ]
    assert harness.query("SELECT count(*) FROM artifacts") == [(2,)]


@pytest.mark.rest
def test_latest_views_follow_the_last_answer(harness: Any, rows: Any) -> None:
    with harness.run("r1") as store:
        rows.add_done(store, 1)
        rows.add_failed(store, 2, code="prompt_too_long", message="old")
        rows.add_failed(store, 3)
        store.end_run({"status": "completed"})
    with harness.run("r2") as store:
        rows.add_done(store, 1, artifact_id="a1b", request_key="k1b", text="edited row")
        rows.add_failed(store, 2, message="new")
        rows.add_done(store, 3)
        _item(store, "j", "4", "not_run", reason="signal")
        store.end_run({"status": "stopped"})
    with harness.run("r3") as store:
        _item(store, "j", "1", "not_run", reason="signal")  # no result: r2's stays the latest
        _item(store, "j", "2", "failed")  # known from before, not tried again
        store.end_run({"status": "stopped"})
    latest = "SELECT item_id, text, run_id FROM latest_artifacts ORDER BY item_id"
    assert harness.query(latest) == [("1", "edited row", "r2"), ("3", "text of 3", "r2")]
    failures = "SELECT run_id, item_id, code, message, attempt FROM latest_failures"
    assert harness.query(failures) == [("r3", "2", "invalid_output", "new", 1)]


def _night(connection: Any, run_id: str, day: int, speed: float, **more: Any) -> None:
    """A run of a day, by default one that completed and made something for job j."""
    jobs = more.pop("jobs", ("j",))
    tokens = int(speed * 10)
    row = {"name": "night", "status": "completed", "engine_s": 10.0, "output_tokens": tokens}
    rates = {"output_tokens_per_s": speed or None, "artifacts_per_hour": 2 * speed or None}
    values = {"run_id": run_id, **row, **rates, **more}
    marks = ", ".join("?" * len(values))
    connection.execute(
        f"INSERT INTO runs ({', '.join(values)}, started_at) VALUES ({marks}, to_timestamp(?))",
        [*values.values(), 86_400 * day],
    )
    for job in jobs:
        connection.execute("INSERT INTO job_stats (run_id, job) VALUES (?, ?)", [run_id, job])


def test_nights_come_newest_first(harness: Any) -> None:
    with duckdb.connect(str(harness.path)) as connection:
        for day in (3, 0, 8, 1, 2, 5, 4, 7, 6):
            _night(connection, f"r{day}", day, 100.0)
    newest = [(f"r{day}",) for day in range(8, 1, -1)]
    assert harness.query("SELECT run_id FROM nights LIMIT 7") == newest
    assert harness.query("SELECT run_id FROM job_throughput LIMIT 7") == newest
    with duckdb.connect(str(harness.path)) as connection:
        connection.execute("CREATE TABLE copied AS SELECT * FROM nights LIMIT 7")
        assert connection.execute("SELECT run_id FROM copied").fetchall() == newest


def test_nights_compare_with_the_last_seven_runs_that_are_like_them(harness: Any) -> None:
    """Whatever lies between: runs that did not complete, made nothing, or had other jobs."""
    with duckdb.connect(str(harness.path)) as connection:
        for number in range(9):
            _night(connection, f"r{number}", 10 * number, 100.0 + number, name=f"file-{number % 2}")
            odd = 10 * number + 1
            _night(connection, f"a{number}", odd, 1.0, status="stopped")
            _night(connection, f"b{number}", odd + 1, 1.0, status="failed")
            _night(connection, f"c{number}", odd + 2, 0.0, engine_s=0.0)
            _night(connection, f"d{number}", odd + 3, 7.0, jobs=("j", "k"))
            _night(connection, f"e{number}", odd + 4, 9.0, jobs=("k",))
    query = (
        "SELECT num_compared, output_tokens_per_s_change, artifacts_per_hour_change, "
        "engine_s_change FROM nights WHERE run_id = ?"
    )
    assert harness.query(query, "r0") == [(0, None, None, None)]
    (first,) = harness.query(query, "r1")
    assert first == (1, pytest.approx(0.01), pytest.approx(0.01), pytest.approx(0.0))
    (last,) = harness.query(query, "r8")
    change = pytest.approx(108 / 104 - 1)  # r1 to r7
    assert last == (7, change, change, pytest.approx(0.0))
    stopped, nothing, other = (harness.query(query, f"{name}8")[0] for name in "ace")
    assert stopped == (7, pytest.approx(1 / 105 - 1), pytest.approx(1 / 105 - 1), None)
    assert nothing == (7, None, None, None)
    assert other == (7, pytest.approx(0.0), pytest.approx(0.0), pytest.approx(0.0))


def test_a_run_in_progress_is_compared_by_the_jobs_it_was_given(harness: Any, rows: Any) -> None:
    jobs = [{"job": "j", "kind": "summary", "num_items": 1}]
    with harness.run("r1", jobs=jobs) as store:
        rows.add_done(store, 1)
        store.end_run({"status": "completed", "engine_s": 1.0})
    with harness.run("r2", jobs=jobs) as store:
        store.publish()
        found = harness.query("SELECT run_id, status, num_compared FROM nights")
        assert found == [("r2", "running", 1), ("r1", "completed", 0)]
        store.end_run({"status": "completed"})


def test_job_throughput_has_a_row_per_run_and_job(harness: Any, rows: Any) -> None:
    for run_id in ("r1", "r2"):
        with harness.run(run_id) as store:
            rows.add_done(store, run_id)
            store.end_run({"status": "completed", "engine_s": 2.0})
    found = harness.query("SELECT run_id, job, artifacts_per_hour FROM job_throughput ORDER BY 1")
    assert found == [("r1", "j", 1800.0), ("r2", "j", 1800.0)]


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds).astimezone()
