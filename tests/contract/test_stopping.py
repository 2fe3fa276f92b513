"""A night that is cut short, shares its store, or is killed."""

import json
import signal
from datetime import datetime, timedelta
from typing import Any

import pytest

SLOW = "builtin:fake?step_ms=60"
JOBS = """
engine: {max_seqs: 2}
run: {grace: 0s}
jobs:
  - name: slow
    kind: raw
    input: rows.parquet
    sampling: {max_tokens: 8, ignore_eos: true}
"""


@pytest.fixture
def slow_night(folder: Any) -> Any:
    """A night of 60 rows in pairs, whose steps take 60 ms."""
    return prepared(folder)


@pytest.fixture(scope="module")
def killed_night(module_folder: Any) -> Any:
    """A night whose process was killed after some rows, and the `status` after it."""
    night = prepared(module_folder)
    process = night.start()
    process.send_signal(signal.SIGKILL)
    process.wait()
    night.status = night.call("status", night.store)
    night.run_row = night.last_run()
    return night


def prepared(folder: Any) -> Any:
    numbers = range(60)
    folder.parquet(
        "rows.parquet",
        {"id": [f"r{n}" for n in numbers], "prompt": [f"Row {n}" for n in numbers]},
    )
    folder.manifest(JOBS, model=SLOW)
    return folder


def hurry(folder: Any) -> None:
    """More rows at once: no setting of the engine makes another request of a row."""
    folder.manifest(JOBS.replace("max_seqs: 2", "max_seqs: 32"), model=SLOW)


def statuses(folder: Any, run_id: str) -> dict[str, int]:
    return dict(
        folder.sql("select status, count(*) from run_items where run_id = ? group by all", run_id)
    )


def assert_counts_add_up(folder: Any, run: dict[str, Any]) -> None:
    found = {name: run[f"num_{name}"] for name in ("done", "failed", "reused", "not_run")}
    assert run["num_items"] == 60 == sum(found.values())
    assert statuses(folder, run["run_id"]) == {name: n for name, n in found.items() if n}


@pytest.mark.rest
def test_second_run_meets_the_lock_and_sigterm_stops_the_first(slow_night: Any) -> None:
    first = slow_night.start()

    refused = slow_night.run("--if-locked", "fail")
    assert refused.code == 3
    assert str(first.pid) in refused.stderr

    skipped = slow_night.run("--if-locked", "skip", "--json")
    assert skipped.code == 0
    assert isinstance(skipped.json, dict)
    assert "skip" in (skipped.stdout + skipped.stderr).lower()

    waited = slow_night.run("--if-locked", "wait=1s")
    assert waited.code == 3

    status = slow_night.call("status", slow_night.store, "--json")
    assert status.code == 0
    assert "running" in json.dumps(status.json)

    assert first.poll() is None, "the first run ended before the others had met it"
    first.send_signal(signal.SIGTERM)
    stopped = slow_night.end(first)
    assert stopped.code == 4
    run = slow_night.last_run()
    assert (run["status"], run["exit_code"], run["stop_reason"]) == ("stopped", 4, "signal")
    assert run["num_done"] > 0
    assert_counts_add_up(slow_night, run)
    assert slow_night.sql("select distinct reason from run_items where status = 'not_run'") == [
        ("signal",)
    ]
    assert slow_night.one("select count(*) from runs") == 1, "the refused left no rows"
    # A row of engine_steps is a second or more.
    assert 1 <= slow_night.one("select count(*) from engine_steps") <= run["engine_s"] + 1

    # The next run waits for nobody and finishes what is left.
    hurry(slow_night)
    finished = slow_night.run("--if-locked", "wait=30m")
    assert finished.code == 0
    then = slow_night.last_run()
    assert then["num_reused"] == run["num_done"]
    assert then["num_done"] == 60 - run["num_done"]


@pytest.mark.rest
@pytest.mark.parametrize(
    "option", ["--time-budget", pytest.param("--deadline", marks=pytest.mark.rest)]
)
def test_run_stops_in_time_with_reason_deadline(slow_night: Any, option: str) -> None:
    hours = "builtin:fake?step_ms=3600000"
    slow_night.manifest(JOBS, model=hours)
    soon = (datetime.now() + timedelta(seconds=5)).isoformat(timespec="seconds")
    value = "4s" if option == "--time-budget" else soon
    outcome = slow_night.run(option, value, "--json")
    assert outcome.code == 4
    assert outcome.json["status"] == "stopped"
    assert outcome.json["stop_reason"] == option.removeprefix("--").replace("-", "_")
    if not outcome.json["num_items"]:
        return  # a slow machine: the time was over before the entries were counted
    run = slow_night.last_run()
    assert (run["status"], run["stop_reason"]) == ("stopped", outcome.json["stop_reason"])
    assert run["num_not_run"] > 0
    assert_counts_add_up(slow_night, run)
    reasons = slow_night.sql("select distinct reason from run_items where status = 'not_run'")
    assert reasons == [("deadline",)]


@pytest.mark.rest
def test_killed_run_is_marked_failed_with_counts_that_add_up(killed_night: Any) -> None:
    assert killed_night.status.code == 0
    assert "killed" in killed_night.status.stdout
    run = killed_night.run_row
    assert (run["status"], run["stop_reason"]) == ("failed", "killed")
    assert run["finished_at"] is not None
    assert run["num_done"] > 0
    assert run["num_done"] + run["num_not_run"] == run["num_items"] == 60
    kept = killed_night.one("select count(*) from artifacts where run_id = ?", run["run_id"])
    assert kept == run["num_done"] == statuses(killed_night, run["run_id"])["done"]


@pytest.mark.rest
def test_killed_run_has_every_entry_in_run_items(killed_night: Any) -> None:
    assert_counts_add_up(killed_night, killed_night.run_row)
    reasons = killed_night.sql("select distinct reason from run_items where status = 'not_run'")
    assert reasons == [("killed",)]
    assert killed_night.one("select count(distinct item_id) from run_items") == 60


@pytest.mark.rest
def test_run_after_a_killed_one_does_what_is_missing(killed_night: Any) -> None:
    hurry(killed_night)
    assert killed_night.run().code == 0
    then = killed_night.last_run()
    kept = killed_night.run_row["num_done"]
    assert (then["num_reused"], then["num_done"]) == (kept, 60 - kept)
    assert_counts_add_up(killed_night, then)
    assert killed_night.sql("select count(*), count(distinct item_id) from artifacts") == [(60, 60)]


@pytest.mark.rest
@pytest.mark.parametrize("mode", ["read-only", pytest.param("read-write", marks=pytest.mark.rest)])
def test_reader_of_the_store_does_not_stop_a_run(folder: Any, mode: str) -> None:
    folder.texts("rows.parquet", 4)
    folder.manifest("""
        jobs:
          - {name: s, kind: summary, input: rows.parquet, sampling: {max_tokens: 8}}
    """)
    assert folder.run().code == 0
    folder.texts("rows.parquet", 9)
    with folder.held_open(mode):
        held = folder.run("--json")
        assert held.code == 0, held.stderr
        assert held.json["num_done"] == 5
        status = folder.call("status", folder.store, "--json")
        assert status.code == 0
    assert folder.call("status", folder.store).code == 0
    assert folder.one("select count(*) from artifacts") == 9
    run = folder.last_run()
    assert (run["status"], run["num_done"], run["num_reused"]) == ("completed", 5, 4)
    assert folder.one("select count(*) from run_items") == 4 + 9
