"""A night that is cut short, shares its store, or is killed."""

import json
import signal
import time
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
    """A night of 60 rows that computes for about fifteen seconds."""
    folder.parquet(
        "rows.parquet",
        {"id": [f"r{n}" for n in range(60)], "prompt": [f"Row {n}" for n in range(60)]},
    )
    folder.manifest(JOBS, model=SLOW)
    return folder


def statuses(folder: Any, run_id: str) -> dict[str, int]:
    return dict(
        folder.sql("select status, count(*) from run_items where run_id = ? group by all", run_id)
    )


def assert_counts_add_up(folder: Any, run: dict[str, Any]) -> None:
    names = ("num_done", "num_failed", "num_reused", "num_not_run")
    assert run["num_items"] == 60 == sum(run[name] for name in names)
    found = statuses(folder, run["run_id"])
    assert found == {n.removeprefix("num_"): run[n] for n in names if run[n]}


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
    # About one row of engine_steps a second.
    steps = slow_night.one("select count(*) from engine_steps")
    assert run["engine_s"] / 2 - 1 <= steps <= run["engine_s"] * 2 + 2

    # The next run waits for nobody and finishes what is left.
    finished = slow_night.run("--if-locked", "wait=30m")
    assert finished.code == 0
    then = slow_night.last_run()
    assert then["num_reused"] == run["num_done"]
    assert then["num_done"] == 60 - run["num_done"]


@pytest.mark.parametrize("option", ["--time-budget", "--deadline"])
def test_run_stops_in_time_with_reason_deadline(slow_night: Any, option: str) -> None:
    in_five = (datetime.now() + timedelta(seconds=6)).isoformat(timespec="seconds")
    value = "5s" if option == "--time-budget" else in_five
    began = time.monotonic()
    outcome = slow_night.run(option, value, "--json")
    assert outcome.code == 4
    assert time.monotonic() - began < 20
    run = slow_night.last_run()
    assert run["status"] == "stopped"
    assert run["stop_reason"] in ("deadline", "time_budget")
    assert run["num_not_run"] > 0
    assert_counts_add_up(slow_night, run)
    reasons = slow_night.sql("select distinct reason from run_items where status = 'not_run'")
    assert reasons == [("deadline",)]


def test_killed_run_is_marked_failed_and_the_next_one_finishes(slow_night: Any) -> None:
    first = slow_night.start()
    time.sleep(3)
    first.send_signal(signal.SIGKILL)
    first.wait()

    status = slow_night.call("status", slow_night.store)
    assert status.code == 0
    assert "killed" in status.stdout
    run = slow_night.last_run()
    assert (run["status"], run["stop_reason"]) == ("failed", "killed")
    assert run["num_done"] > 0
    assert_counts_add_up(slow_night, run)
    kept = slow_night.one("select count(*) from artifacts")
    assert kept == run["num_done"]

    assert slow_night.run().code == 0
    then = slow_night.last_run()
    assert (then["num_reused"], then["num_done"]) == (kept, 60 - kept)
    assert slow_night.one("select count(*) from artifacts") == 60


@pytest.mark.parametrize("mode", ["read-only", "read-write"])
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
