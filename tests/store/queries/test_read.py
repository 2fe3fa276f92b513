"""A report reads the right run and its failures with examples, while others use the file."""

import json
import threading
import time
from typing import Any

import pytest

from thothy_batch.errors import StoreError
from thothy_batch.store.queries import read
from thothy_batch.store.queries.read import list_runs, report_data


def _two_runs(harness: Any, rows: Any) -> None:
    with harness.run("r1", started_at=1_700_000_000, model={"name": "tiny"}) as store:
        rows.add_done(store, 1, verdict="flagged", flags=["cut_off", "one_line"])
        for item in range(2, 8):
            rows.add_failed(store, item, code="prompt_too_long", message=f"too long {item}")
        rows.add_failed(store, 9, code="invalid_input", message="null")
        store.end_run({"status": "completed", "engine_s": 2.0})
    with harness.run("r2", started_at=1_700_086_400) as store:
        rows.add_failed(store, 2, message="this time bad output")
        store.add("run_items", {"job": "j", "item_id": "3", "status": "failed"})  # not tried again
        for at_s in range(1, 501):
            step = {"at_s": float(at_s), "decode_tokens": 200, "prefill_tokens": 0}
            store.add("engine_steps", {**step, "num_running": 4, "blocks_used": 1})
        store.end_run({"status": "completed"})


def test_the_last_run_is_the_default_and_values_are_plain(harness: Any, rows: Any) -> None:
    _two_runs(harness, rows)
    data = report_data(harness.path)
    assert data["run"]["run_id"] == "r2"
    assert json.loads(json.dumps(data)) == data
    assert [n["run_id"] for n in data["nights"]] == ["r2", "r1"]
    first = report_data(harness.path, "r1")
    assert first["run"]["model"] == {"name": "tiny"}
    assert [n["run_id"] for n in first["nights"]] == ["r1"]
    assert first["jobs"][0]["finish_reasons"] == {"stop": 1}
    flags = [(f["flag"], f["num"]) for f in first["flags"]]
    assert flags == [("cut_off", 1), ("one_line", 1)]


@pytest.mark.rest
def test_a_report_of_a_run_is_the_same_after_later_runs(harness: Any, rows: Any) -> None:
    """They replace its artifacts, and say other things of its failures."""
    _two_runs(harness, rows)
    before = {run: report_data(harness.path, run) for run in ("r1", "r2")}
    with harness.run("r3", started_at=1_700_172_800) as store:  # --force
        rows.add_done(store, 1, verdict="ok", flags=[])
        rows.add_done(store, 2)
        rows.add_failed(store, 3, message="it failed anew")
        store.end_run({"status": "failed", "stop_reason": "engine_failed"})
    with harness.run("r4", started_at=1_700_259_200) as store:
        rows.add_done(store, 1, job="k", artifact_id="other")
        store.end_run({"status": "completed"})
    assert {run: report_data(harness.path, run) for run in ("r1", "r2")} == before
    assert before["r1"]["jobs"][0]["num_flagged"] == 1
    assert before["r1"]["flags"][0]["flag"] == "cut_off"
    assert report_data(harness.path, "r3")["flags"] == []
    nights = [
        (night["run_id"], night["num_compared"]) for night in report_data(harness.path)["nights"]
    ]
    assert nights == [("r4", 0), ("r3", 1), ("r2", 1), ("r1", 0)]


def test_failures_come_by_code_with_first_examples(harness: Any, rows: Any) -> None:
    _two_runs(harness, rows)
    first = report_data(harness.path, "r1")["failures"]
    assert [(entry["code"], entry["num"]) for entry in first] == [
        ("prompt_too_long", 6),
        ("invalid_input", 1),
    ]
    assert [e["message"] for e in first[0]["examples"]] == [
        "too long 2",
        "too long 3",
        "too long 4",
    ]
    second = {entry["code"]: entry for entry in report_data(harness.path, "r2")["failures"]}
    assert second["invalid_output"]["examples"][0]["message"] == "this time bad output"
    assert (
        second["prompt_too_long"]["examples"][0]["message"] == "too long 3"
    )  # from the run before


def test_a_long_run_has_a_bounded_number_of_points(harness: Any, rows: Any) -> None:
    _two_runs(harness, rows)
    steps = report_data(harness.path)["steps"]
    assert 200 <= len(steps) <= 241
    assert all(step["decode_tokens_per_s"] == 200 for step in steps)
    assert [s["at_s"] for s in steps] == sorted(s["at_s"] for s in steps)


def test_a_run_that_goes_on_shows_what_it_has(harness: Any, rows: Any) -> None:
    with harness.run(jobs=[{"job": "j", "kind": "summary", "num_items": 5}]) as store:
        rows.add_done(store, 1)
        store.publish()
        data = report_data(harness.path)
        assert data["run"]["status"] == "running"
        (job,) = data["jobs"]
        assert (job["num_done"], job["num_items"], job["kind"]) == (1, 5, "summary")
        store.end_run({"status": "completed"})


def test_a_wrong_run_is_an_error_that_names_the_last(harness: Any, rows: Any) -> None:
    with pytest.raises(StoreError, match="no run yet"):
        report_data(harness.path)
    _two_runs(harness, rows)
    with pytest.raises(StoreError, match="no run x") as caught:
        report_data(harness.path, "x")
    assert "r2" in caught.value.hint
    with pytest.raises(StoreError, match="several runs"):
        report_data(harness.path, "r")
    assert [run["run_id"] for run in list_runs(harness.path, limit=1)] == ["r2"]


def test_a_missing_store_is_an_error_and_is_not_made(blank: Any) -> None:
    with pytest.raises(StoreError, match="there is no store"):
        report_data(blank.path)
    assert not blank.path.exists()


@pytest.mark.rest
def test_reading_waits_for_a_merge_to_end(
    harness: Any, rows: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _two_runs(harness, rows)
    with harness.reader(read_only=False):
        monkeypatch.setattr(read, "_RETRY_S", 0.3)
        with pytest.raises(StoreError, match="open in another program"):
            report_data(harness.path)
    monkeypatch.setattr(read, "_RETRY_S", 120.0)
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(report_data(harness.path)))
    with harness.reader(read_only=False):
        thread.start()
        time.sleep(0.5)
        assert found == []
    thread.join(120)
    assert found[0]["run"]["run_id"] == "r2"
