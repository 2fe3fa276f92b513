"""After every end of a run - deadline, signal, kill -9, engine crash - the next run continues."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from thothy_batch.engine.start import start_child
from thothy_batch.errors import EngineError, LockedError, StoreError
from thothy_batch.runner.commands import run as run_command
from thothy_batch.runner.session import setup
from thothy_batch.runner.session.options import IfLocked
from thothy_batch.store.files import journal_folder, lock_path, status_path
from thothy_batch.store.journal.journal import Journal
from thothy_batch.store.lock import read_holder
from thothy_batch.store.store import Store

SLOW = "builtin:fake?step_ms=20"
TIMEOUT_S = 120  # after which something hangs
MIDDLE = "engine.step:100"  # of `slow_project`: sixteen rows are done, eight run


@pytest.fixture
def slow_project(project: Any) -> Any:
    """About 200 steps: eight rows at a time, forty tokens each, forty rows."""
    project.rows("rows.parquet", id=list(range(40)), prompt=[f"prompt {i}" for i in range(40)])
    project.jobs(
        "name: j, kind: raw, input: rows.parquet, sampling: {max_tokens: 40, ignore_eos: true}",
        model=SLOW,
        more="engine: {max_seqs: 8}\nrun: {grace: 1h}",
    )
    return project


def start(project: Any, held_at: str) -> subprocess.Popen[str]:
    """A run that is held at a place until it is released."""
    return subprocess.Popen(
        [sys.executable, "-m", "thothy_batch", "run", str(project.manifest)],
        env=os.environ | {"THOTHY_FAULTS": f"{held_at}=hold:{project.folder / 'release'}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def release(project: Any) -> None:
    (project.folder / "release").touch()


def wait_for(seen: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not seen():
        assert time.monotonic() < deadline, f"{what} did not come"
        time.sleep(0.02)


def status_of(project: Any) -> dict[str, Any]:
    try:
        return dict(json.loads(status_path(project.store).read_text()))
    except (OSError, ValueError):
        return {}


def wait_until_held(project: Any) -> None:
    wait_for((project.folder / "release.held").exists, "the place where the run is held")


def wait_for_artifacts(project: Any) -> None:
    wait_until_held(project)
    wait_for(
        lambda: (
            status_of(project).get("state") == "running" and status_of(project)["num_settled"] > 0
        ),
        "an artifact",
    )


def children_of(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


@pytest.mark.rest
def test_a_signal_drains_and_the_next_run_does_the_rest(slow_project: Any) -> None:
    process = start(slow_project, MIDDLE)
    wait_for_artifacts(slow_project)
    process.send_signal(signal.SIGTERM)
    wait_for(lambda: status_of(slow_project).get("state") == "stopping", "the drain")
    release(slow_project)
    out, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 4, err
    assert "left for the next run" in out
    (run,) = slow_project.query("select status, stop_reason, num_done, num_not_run from runs")
    assert run[:2] == ("stopped", "signal")
    assert 0 < run[2] < 40
    assert run[3] == 40 - run[2]
    reasons = slow_project.query("select distinct reason from run_items where status = 'not_run'")
    assert reasons == [("signal",)]
    rest = slow_project.run()
    assert (rest.counts["num_done"], rest.counts["num_reused"]) == (40 - run[2], run[2])


@pytest.mark.rest
def test_a_second_signal_skips_the_grace(project: Any) -> None:
    project.rows("rows.parquet", id=[1], prompt=["p"])
    project.jobs(
        "name: j, kind: raw, input: rows.parquet, sampling: {max_tokens: 3000, ignore_eos: true}",
        model=SLOW,
        more="run: {grace: 1h}",
    )
    process = start(project, MIDDLE)  # more than a second of steps: the engine has reported
    wait_until_held(project)
    wait_for(lambda: status_of(project).get("num_running"), "a running request")
    process.send_signal(signal.SIGINT)
    wait_for(lambda: status_of(project).get("state") == "stopping", "the drain")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 4
    assert project.query("select num_not_run, wasted_tokens > 0 from runs") == [(1, True)]


def test_a_kill_of_the_parent_loses_nothing_and_leaves_no_child(slow_project: Any) -> None:
    process = start(slow_project, MIDDLE)
    wait_for_artifacts(slow_project)
    before = status_of(slow_project)
    # A status is written a second after the one before it, and the journal half a second after.
    wait_for(lambda: status_of(slow_project).get("elapsed_s", 0) > before["elapsed_s"], "a status")
    children = children_of(process.pid)
    assert children
    process.kill()
    process.communicate(timeout=TIMEOUT_S)
    after = slow_project.run()
    assert after.counts["num_done"] + after.counts["num_reused"] == 40
    assert before["num_settled"] <= after.counts["num_reused"] < 40
    killed = slow_project.query("select status, stop_reason from runs order by started_at limit 1")
    assert killed == [("failed", "killed")]
    listed = slow_project.query(
        "select count(*), count(distinct item_id) from run_items join runs using (run_id) "
        "where stop_reason = 'killed'"
    )
    assert listed == [(40, 40)]
    assert slow_project.query("select count(*), count(distinct item_id) from artifacts") == [
        (40, 40)
    ]
    wait_for(lambda: not [pid for pid in children if Path(f"/proc/{pid}").exists()], "their end")


def test_a_deadline_in_the_past_starts_nothing(slow_project: Any) -> None:
    def start(spec: object, *, log_path: Path | None = None, on_phase: Any = None) -> Any:
        raise AssertionError("a model was loaded for nothing")

    run = slow_project.run(deadline="2020-01-01T00:00", start_engine=start)
    assert (run.exit_code, run.stop_reason, run.counts["num_not_run"]) == (4, "deadline", 40)
    assert slow_project.query("select distinct reason from run_items") == [("deadline",)]


def test_a_signal_while_the_run_is_entered_leaves_it_stopped_not_killed(
    raw_project: Any, monkeypatch: Any
) -> None:
    record = setup.record_entries

    def interrupted(*values: Any) -> None:
        record(*values)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(run_command, "record_entries", interrupted)
    run = raw_project.run()
    assert (run.exit_code, run.stop_reason, run.counts["num_not_run"]) == (4, "signal", 12)
    assert raw_project.query("select status, stop_reason from runs") == [("stopped", "signal")]


PHASES = ("opening the store", "reading", "looking up", "planning", "loading", "computing")


@pytest.mark.few(1)
@pytest.mark.parametrize("phase", [*PHASES, "publishing"])
def test_the_document_of_a_run_has_the_same_keys_whenever_it_stops(
    raw_project: Any, monkeypatch: Any, phase: str
) -> None:
    def interrupted(text: str) -> None:
        if text.startswith(phase):
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(raw_project.notes, "phase", interrupted)
        stopped = raw_project.run()
    assert (stopped.exit_code == 4) == (phase in PHASES)
    left = stopped.counts["num_not_run"]
    assert left == (0 if phase in PHASES[:2] or phase == "publishing" else 12)
    whole = raw_project.run()
    assert list(stopped.as_json()) == list(whole.as_json())
    assert stopped.counts.keys() == whole.counts.keys()


@pytest.mark.usefixtures("virtual_clock")
def test_a_time_budget_stops_and_the_run_is_marked(slow_project: Any) -> None:
    run = slow_project.run(time_budget_s=2.0)
    assert (run.exit_code, run.status, run.stop_reason) == (4, "stopped", "time_budget")
    assert 0 < run.counts["num_done"] < 40
    assert run.counts["num_not_run"] == 40 - run.counts["num_done"]
    assert slow_project.query("select distinct reason from run_items where status = 'not_run'") == [
        ("deadline",)
    ]


@pytest.mark.few(1)
@pytest.mark.parametrize("how", ["error", "exit"])
def test_an_engine_that_dies_ends_the_run_with_what_was_finished(project: Any, how: str) -> None:
    project.rows("rows.parquet", id=list(range(30)), prompt=[f"p{i}" for i in range(30)])
    project.jobs(
        "name: j, kind: raw, input: rows.parquet, sampling: {max_tokens: 10, ignore_eos: true}",
        model=f"builtin:fake?fail={how}&fail_at_step=25&step_ms=60",
        more="engine: {max_seqs: 8, max_step_tokens: 64}",
    )
    run = project.run(start_engine=start_child)
    assert isinstance(run.error, EngineError)
    assert (run.exit_code, run.status) == (5, "failed")
    assert 0 < run.counts["num_done"] < 30
    assert project.query("select status, exit_code from runs") == [("failed", 5)]


@pytest.mark.rest
def test_a_store_that_fails_for_a_while_ends_the_run_as_failed_not_killed(
    raw_project: Any, monkeypatch: Any
) -> None:
    tick, calls = Store.tick, []

    def failing(store: Store) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise StoreError("cannot write the journal: the disk is full")
        tick(store)

    monkeypatch.setattr(Store, "tick", failing)
    run = raw_project.run()
    assert isinstance(run.error, StoreError)
    assert (run.exit_code, run.stop_reason) == (5, "store_failed")
    found = raw_project.query("select status, stop_reason, exit_code from runs")
    assert found == [("failed", "store_failed", 5)]
    assert raw_project.run().exit_code == 0


@pytest.mark.rest
def test_a_second_run_names_the_holder_of_the_store(slow_project: Any) -> None:
    process = start(slow_project, MIDDLE)
    try:
        wait_for(lambda: read_holder(lock_path(slow_project.store)), "the lock")
        with pytest.raises(LockedError) as busy:
            slow_project.run()
        assert str(process.pid) in busy.value.message
        skipped = slow_project.run(if_locked=IfLocked.parse("skip"))
        assert (skipped.exit_code, skipped.status) == (0, "skipped")
        assert str(process.pid) in skipped.messages[0]
        release(slow_project)
        waited = slow_project.run(if_locked=IfLocked.parse("wait=1h"))
        assert (waited.exit_code, waited.output_tokens) == (0, 0)
        assert waited.counts["num_reused"] == 40
    finally:
        release(slow_project)
        process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0


@pytest.mark.rest
def test_a_reader_never_fails_a_run(raw_project: Any) -> None:
    raw_project.run(limit=2)
    code = (
        "import duckdb, sys\n"
        f"c = duckdb.connect({str(raw_project.store)!r}, read_only=True)\n"
        "print('open', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "open\n"
        run = raw_project.run()
        assert (run.exit_code, run.counts["num_done"], run.published) == (0, 10, False)
        assert any("another program" in message for message in run.messages)
        reader.communicate("")
    again = raw_project.run()
    assert (again.counts["num_reused"], again.output_tokens) == (12, 0)
    assert raw_project.query("select count(*) from runs where status = 'completed'") == [(3,)]


@pytest.mark.rest
def test_the_child_never_holds_the_lock(slow_project: Any) -> None:
    process = start(slow_project, MIDDLE)
    wait_for_artifacts(slow_project)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=TIMEOUT_S)
    assert slow_project.run().exit_code == 0  # at once: no wait, no LockedError


def test_lost_journal_bytes_are_reported(raw_project: Any) -> None:
    raw_project.run()
    journal = Journal(journal_folder(raw_project.store))
    for number in range(3):
        row = {"run_id": "r", "job": "j", "item_id": str(number), "variant": "", "status": "done"}
        journal.append("run_items", row)
    journal.close()
    (segment,) = journal.closed_segments()
    data = bytearray(segment.read_bytes())
    data[len(data) // 2] ^= 1
    segment.write_bytes(data)
    raw_project.run()
    assert any("unreadable bytes" in text for text in raw_project.notes.texts)
