"""Requests that cannot finish in time are not started; the nearest deadline goes first."""

import os
import socket
import threading
import time
from datetime import datetime
from typing import Any

import pytest

from thothy_batch.engine.start import start_supervised
from thothy_batch.errors import LockHolder
from thothy_batch.runner.commands.run import run_manifest
from thothy_batch.runner.session.options import IfLocked
from thothy_batch.store.files import lock_path
from thothy_batch.store.lock import FileLock

MODEL = "builtin:fake?step_ms=100"
ROWS = "kind: raw, sampling: {ignore_eos: true, max_tokens: %d}"


def at(seconds: float) -> str:
    return datetime.fromtimestamp(time.time() + seconds).astimezone().isoformat()


def statuses(project: Any) -> dict[str, set[tuple[str, str | None]]]:
    found: dict[str, set[tuple[str, str | None]]] = {}
    for job, status, reason in project.query(
        "select job, status, reason from run_items order by run_id desc"
    ):
        found.setdefault(job, set()).add((status, reason))
    return found


@pytest.fixture
def two_lengths(project: Any) -> Any:
    """Rows of 2 s, and rows of 200 s, which come first."""
    project.rows("short.parquet", id=list(range(60)), prompt=[f"short {i}" for i in range(60)])
    project.rows("long.parquet", id=list(range(20)), prompt=[f"long {i}" for i in range(20)])
    project.jobs(
        f"name: warm, input: short.parquet, priority: 9, {ROWS % 20}",
        f"name: long, input: long.parquet, priority: 5, {ROWS % 2000}",
        f"name: short, input: short.parquet, priority: 1, {ROWS % 21}",
        model=MODEL,
        more="engine: {max_seqs: 8}",
    )
    return project


@pytest.mark.few(1)
@pytest.mark.parametrize("reason", ["deadline", "time_budget"])
def test_rows_that_cannot_finish_are_not_started(
    two_lengths: Any, virtual_clock: Any, reason: str
) -> None:
    """The run does not sit the time out either: it ends when there is nothing left that fits."""
    limit = {"deadline": at(150)} if reason == "deadline" else {"time_budget_s": 150.0}
    began = virtual_clock.now
    summary = two_lengths.run(**limit)
    took_s = virtual_clock.now - began
    assert (summary.exit_code, summary.status, summary.stop_reason) == (4, "stopped", reason)
    assert statuses(two_lengths) == {
        "warm": {("done", None)},
        "long": {("not_run", "deadline")},
        "short": {("done", None)},
    }
    assert took_s < 60.0
    assert summary.wasted_tokens == 0
    assert "20 entries were not started" in "\n".join(summary.messages)
    again = two_lengths.run(jobs=("short", "warm"))
    assert again.counts["num_reused"] == 120


@pytest.mark.rest
@pytest.mark.usefixtures("virtual_clock")
def test_the_job_that_is_due_first_goes_first(project: Any) -> None:
    project.rows("rows.parquet", id=list(range(20)), prompt=[f"row {i}" for i in range(20)])
    project.jobs(
        f"name: any, input: rows.parquet, {ROWS % 5}",
        f'name: later, input: rows.parquet, deadline: "{at(7200)}", {ROWS % 6}',
        f'name: soon, input: rows.parquet, deadline: "{at(3600)}", {ROWS % 7}',
        f"name: first, input: rows.parquet, priority: 9, {ROWS % 8}",
        model=MODEL,
        more="engine: {max_seqs: 4}",
    )
    assert project.run().exit_code == 0
    order = project.query("select job, max(queue_s) from artifacts group by job order by 2")
    assert [job for job, _ in order] == ["first", "soon", "later", "any"]


@pytest.mark.rest
@pytest.mark.usefixtures("virtual_clock")
def test_a_job_ends_at_its_deadline_and_the_others_go_on(project: Any) -> None:
    project.rows("rows.parquet", id=list(range(400)), prompt=[f"row {i}" for i in range(400)])
    jobs = [
        f'name: due, input: rows.parquet, deadline: "{at(120)}", {ROWS % 40}',
        f"name: rest, input: rows.parquet, {ROWS % 2}",
    ]
    project.jobs(*jobs, model=MODEL, more="engine: {max_seqs: 8}")
    summary = project.run()
    assert (summary.exit_code, summary.stop_reason) == (4, "deadline")
    due, rest = summary.jobs
    assert due["num_done"] > 0
    assert due["num_not_run"] == 400 - due["num_done"] > 0
    assert rest["num_done"] == 400
    assert statuses(project)["due"] == {("done", None), ("not_run", "deadline")}
    project.jobs(jobs[0].replace(jobs[0].split('"')[1], at(3600)), jobs[1], model=MODEL)
    second = project.run()
    assert second.exit_code == 0
    assert second.jobs[0]["num_reused"] == due["num_done"]


@pytest.mark.rest
@pytest.mark.usefixtures("virtual_clock")
def test_a_row_of_two_jobs_is_wanted_until_the_later_one_is_over(project: Any) -> None:
    project.rows("rows.parquet", id=[1, 2], prompt=["one", "two"])
    project.jobs(
        f'name: over, input: rows.parquet, deadline: "2020-01-01T00:00", {ROWS % 5}',
        f"name: rest, input: rows.parquet, {ROWS % 5}",
        model=MODEL,
    )
    assert project.run().exit_code == 4
    assert statuses(project) == {"over": {("not_run", "deadline")}, "rest": {("done", None)}}


def test_a_wrong_deadline_of_a_job_is_reported_with_its_line(project: Any) -> None:
    from thothy_batch.errors import ManifestError

    project.rows("rows.parquet", id=[1], prompt=["one"])
    project.jobs("name: j, kind: raw, input: rows.parquet, deadline: 25:99")
    with pytest.raises(ManifestError, match=r"deadline must be a clock time.*25:99"):
        project.run()


STRICT = """\
kind: strict
fields: [text]
sampling: {temperature: 0.9, max_tokens: 4}
document: "{{ text }}"
stages: [{name: only, instruction: Say it.}]
checks: {cut_off: CHECK}
"""


def strict(project: Any, check: str) -> None:
    """A kind whose completions are nearly all cut off: another attempt gets more room."""
    (project.folder / "strict.yaml").write_text(STRICT.replace("CHECK", check))
    project.rows("rows.parquet", id=list(range(20)), text=[f"text {i}" for i in range(20)])
    project.rows("rest.parquet", id=list(range(300)), prompt=[f"row {i}" for i in range(300)])


@pytest.mark.rest
@pytest.mark.usefixtures("virtual_clock")
def test_a_retry_that_comes_too_late_is_left_to_the_next_run(project: Any) -> None:
    """Not a failure for good: its entry was not run to its end."""
    strict(project, "fail")
    due = "name: due, kind: strict.yaml, input: rows.parquet, max_failed_pct: 100, deadline: "
    rest = f"name: rest, input: rest.parquet, {ROWS % 120}"
    engine = "engine: {max_seqs: 20}"
    project.jobs(f'{due}"{at(90)}"', rest, model=MODEL, more=engine)
    summary = project.run()
    assert (summary.exit_code, summary.stop_reason) == (4, "deadline")
    left = summary.jobs[0]["num_not_run"]
    assert isinstance(left, int)
    assert left > 10
    assert summary.jobs[0]["num_failed"] == 0
    assert f"{left} entries were not started" in "\n".join(summary.messages)
    project.jobs(f'{due}"{at(3600)}"', rest, model=MODEL, more=engine + "\nrun: {max_attempts: 6}")
    assert project.run().jobs[0]["num_done"] == left


@pytest.mark.rest
@pytest.mark.usefixtures("virtual_clock")
def test_a_retry_that_another_job_waits_for_is_computed(project: Any) -> None:
    strict(project, "flag")
    job = "kind: strict.yaml, input: rows.parquet"
    rest = f"name: rest, input: rest.parquet, {ROWS % 120}"
    more = "engine: {max_seqs: 20}\nrun: {max_attempts: 5}"
    project.jobs(
        f'name: due, {job}, deadline: "{at(90)}"', f"name: b, {job}", rest, model=MODEL, more=more
    )
    project.run()
    found = project.query("select item_id, text, attempt from artifacts where job = 'b' order by 1")
    project.store.unlink()
    project.jobs(f"name: b, {job}", model=MODEL, more=more)
    project.run()
    alone = project.query("select item_id, text, attempt from artifacts where job = 'b' order by 1")
    assert found == alone
    assert max(attempt for _, _, attempt in alone) > 1


@pytest.fixture
def one_row(project: Any) -> Any:
    project.rows("rows.parquet", id=[1], prompt=["one"])
    project.jobs("name: j, kind: raw, input: rows.parquet", model="builtin:fake?step_ms=1000")
    return project


def held_elsewhere(project: Any) -> FileLock:
    """The lock of the store, as another run holds it."""
    (project.folder / f"{project.store.name}.journal").mkdir()
    holder = LockHolder(pid=os.getpid(), run_id="other", host=socket.gethostname())
    return FileLock(lock_path(project.store)).acquire(holder)


@pytest.mark.parametrize("left_s", [0.5, -3600.0], ids=["comes", "has passed"])
def test_a_deadline_ends_the_waiting_for_a_lock(one_row: Any, left_s: float) -> None:
    with held_elsewhere(one_row):
        options = one_row.options(deadline=at(left_s), if_locked=IfLocked("wait", 3600.0))
        summary = run_manifest(options, one_row.notes)
    assert (summary.exit_code, summary.status, summary.stop_reason) == (4, "stopped", "deadline")
    assert "stopped by the deadline before anything was computed" in summary.messages[0]
    assert not one_row.store.exists()


@pytest.mark.rest
def test_a_run_begins_when_it_holds_the_store(one_row: Any, virtual_clock: Any) -> None:
    """Waiting for another run is no part of its time budget, nor of its times."""
    lock, released = held_elsewhere(one_row), []

    def release() -> None:
        released.append(datetime.now().astimezone())
        lock.release()

    virtual_clock.after(1800.0, release)
    summary = one_row.run(time_budget_s=600.0, if_locked=IfLocked("wait", 3600.0))
    assert (summary.exit_code, summary.counts["num_done"]) == (0, 1)
    assert one_row.query("select started_at >= ? from runs", released[0]) == [(True,)]


def while_computing(project: Any, monkeypatch: pytest.MonkeyPatch, action: Any) -> None:
    def phase(text: str) -> None:
        if text == "computing":
            action()

    monkeypatch.setattr(project.notes, "phase", phase)


@pytest.mark.rest
def test_a_deadline_comes_while_the_machine_is_suspended(
    one_row: Any, virtual_clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    while_computing(one_row, monkeypatch, lambda: virtual_clock.suspend(7200.0))
    stopped = one_row.run(deadline=at(3600))
    assert (stopped.exit_code, stopped.stop_reason) == (4, "deadline")
    assert statuses(one_row) == {"j": {("not_run", "deadline")}}
    # A time budget is of time in which the machine can compute.
    assert one_row.run(time_budget_s=3600.0).exit_code == 0


def test_a_deadline_of_a_job_comes_while_the_machine_is_suspended(
    project: Any, virtual_clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.rows("rows.parquet", id=[1, 2], prompt=["one", "two"])
    project.jobs(
        f'name: due, input: rows.parquet, deadline: "{at(3600)}", {ROWS % 5}',
        f"name: rest, input: rows.parquet, {ROWS % 6}",
        model=MODEL,
    )
    while_computing(project, monkeypatch, lambda: virtual_clock.suspend(7200.0))
    assert project.run().exit_code == 4
    assert statuses(project) == {"due": {("not_run", "deadline")}, "rest": {("done", None)}}


@pytest.mark.rest
def test_a_deadline_that_came_while_the_machine_was_suspended_ends_the_loading(
    project: Any, monkeypatch: pytest.MonkeyPatch, shifted_clock: Any
) -> None:
    def suspended(text: str) -> None:
        if text.startswith("loading"):
            threading.Timer(1.0, shifted_clock.suspend, [7200.0]).start()

    monkeypatch.setattr(project.notes, "phase", suspended)
    project.rows("rows.parquet", id=[1], prompt=["one"])
    project.jobs("name: j, kind: raw, input: rows.parquet", model="builtin:fake?load_ms=3600000")
    summary = project.run(start_engine=start_supervised, deadline=at(3600))
    assert (summary.exit_code, summary.stop_reason) == (4, "deadline")
    assert project.query("select status, reason from run_items") == [("not_run", "deadline")]


@pytest.mark.rest
def test_a_deadline_ends_the_loading(
    project: Any, monkeypatch: pytest.MonkeyPatch, shifted_clock: Any
) -> None:
    def near_the_end(text: str) -> None:
        if text.startswith("loading"):
            shifted_clock.advance(3597.0)

    monkeypatch.setattr(project.notes, "phase", near_the_end)
    project.rows("rows.parquet", id=[1], prompt=["one"])
    project.jobs("name: j, kind: raw, input: rows.parquet", model="builtin:fake?load_ms=3600000")
    summary = project.run(start_engine=start_supervised, time_budget_s=3600.0)
    assert (summary.exit_code, summary.stop_reason) == (4, "time_budget")
    assert project.query("select status, reason from run_items") == [("not_run", "deadline")]
