"""A run that held the store has its row, however early it ended; the views are as before it."""

import errno
import json
import signal
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from thothy_batch.errors import EngineError, ManifestError, ModelError, StoreError, ThothyError
from thothy_batch.runner.commands import run as run_command
from thothy_batch.runner.commands.report import report_document
from thothy_batch.runner.monitoring.store_state import read_store_state
from thothy_batch.store import status_path
from thothy_batch.store.files import journal_folder
from thothy_batch.store.journal import journal

ROW = (
    "select status, stop_reason, exit_code, num_items, num_done + num_failed + num_reused + "
    "num_not_run, started_at is not null and finished_at >= started_at from runs "
    "order by started_at desc, run_id desc limit 1"
)
VIEWS = [
    "select * from latest_artifacts order by all",
    "select * from latest_failures order by all",
    "select run_id, num_compared, output_tokens_per_s_change from nights "
    "where status = 'completed'",
]
UNREAD = ("opening the store", "reading and tokenising")  # phases before the entries are known
PHASES = (*UNREAD, "looking up earlier results", "planning", "loading builtin:fake")
STOPS = ("SIGTERM", "SIGINT", "deadline", "time_budget")


def in_phase(project: Any, monkeypatch: pytest.MonkeyPatch, name: str, act: Callable) -> None:
    def phase(text: str) -> None:
        if text.startswith(name):
            act()

    monkeypatch.setattr(project.notes, "phase", phase)


def last_row(project: Any) -> tuple[Any, ...]:
    (row,) = project.query(ROW)
    assert row[3] == row[4], "the counts do not add up"
    assert row[5]
    return tuple(row[:4])


@pytest.mark.few(1)
@pytest.mark.parametrize("stop", STOPS)
@pytest.mark.parametrize("phase", PHASES)
def test_a_run_that_is_stopped_early_has_its_row(
    raw_project: Any,
    monkeypatch: pytest.MonkeyPatch,
    shifted_clock: Any,
    phase: str,
    stop: str,
) -> None:
    before = raw_project.run(limit=4)
    views = [raw_project.query(view) for view in VIEWS]

    def act() -> None:
        shifted_clock.advance(7200.0)
        is_signal = stop.startswith("SIG")
        signal.raise_signal(signal.Signals[stop] if is_signal else signal.SIGUSR2)

    in_phase(raw_project, monkeypatch, phase, act)
    limits: dict[str, Any] = {}
    if stop == "deadline":
        limits["deadline"] = (datetime.now().astimezone() + timedelta(hours=1)).isoformat()
    elif stop == "time_budget":
        limits["time_budget_s"] = 3600.0
    run = raw_project.run(**limits)
    reason = "signal" if stop.startswith("SIG") else stop
    num_items = 0 if phase in UNREAD else 12
    assert (run.exit_code, run.status, run.stop_reason) == (4, "stopped", reason)
    assert last_row(raw_project) == ("stopped", reason, 4, num_items)
    left = raw_project.query(
        "select distinct reason from run_items where run_id = ? and status = 'not_run'", run.run_id
    )
    assert left == ([] if phase in UNREAD else [("signal" if reason == "signal" else "deadline",)])
    assert run.run_id != before.run_id
    assert read_store_state(raw_project.store)["last_run"]["run_id"] == run.run_id
    assert report_document(raw_project.store, None)["run"]["run_id"] == run.run_id
    assert [raw_project.query(view) for view in VIEWS] == views
    monkeypatch.setattr(raw_project.notes, "phase", lambda text: None)
    again = raw_project.run()
    assert (again.exit_code, again.counts["num_reused"]) == (0, 4)


def failing(error: ThothyError) -> Callable[..., Any]:
    def fail(*args: Any, **more: Any) -> Any:
        raise error

    return fail


@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (EngineError("it cannot start"), "engine_failed"),
        (ModelError("it has no such file"), "engine_failed"),
    ],
)
def test_a_run_whose_engine_or_model_fails_has_its_row(
    raw_project: Any, error: ThothyError, reason: str
) -> None:
    run = raw_project.run(start_engine=failing(error))
    assert run.error is error
    assert last_row(raw_project) == ("failed", reason, error.exit_code, 12)
    assert raw_project.query("select distinct reason from run_items") == [("engine_failed",)]


@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ManifestError("rows.parquet: a page is damaged"), "manifest_error"),
        (StoreError("the disk is full"), "store_failed"),
        (ModelError("its template is damaged"), "engine_failed"),
    ],
)
def test_an_error_while_the_entries_are_read_is_the_end_of_a_recorded_run(
    raw_project: Any, monkeypatch: pytest.MonkeyPatch, error: ThothyError, reason: str
) -> None:
    monkeypatch.setattr(run_command, "read_entries", failing(error))
    with pytest.raises(type(error)):
        raw_project.run()
    read_store_state(raw_project.store)  # publishes what is left
    assert last_row(raw_project) == ("failed", reason, error.exit_code, 0)
    status = json.loads(status_path(raw_project.store).read_text())
    assert (status["state"], status["exit_code"]) == ("finished", error.exit_code)


@pytest.mark.rest
@pytest.mark.parametrize("phase", ["reading", "looking up"])
def test_a_disk_that_fills_before_anything_is_computed_leaves_a_failed_run(
    raw_project: Any, monkeypatch: pytest.MonkeyPatch, phase: str
) -> None:
    state = {"is_full": False, "has_failed": False}
    write = journal._write_at

    def no_room(fd: int, data: bytes, offset: int) -> None:
        if state["is_full"] and not state["has_failed"]:
            state["has_failed"] = True
            raise OSError(errno.ENOSPC, "No space left on device")
        write(fd, data, offset)

    monkeypatch.setattr(journal, "_write_at", no_room)
    in_phase(raw_project, monkeypatch, phase, lambda: state.update(is_full=True))
    if phase == "reading":  # the entries have no room
        with pytest.raises(StoreError):
            raw_project.run()
    else:
        run = raw_project.run()
        assert (run.exit_code, run.stop_reason) == (5, "store_failed")
    monkeypatch.undo()
    read_store_state(raw_project.store)
    status, reason, code, _ = last_row(raw_project)
    assert (status, reason, code) == ("failed", "store_failed", 5)
    assert raw_project.run().exit_code == 0


@pytest.mark.rest
def test_the_reserve_records_the_end_of_a_run_whose_entries_have_no_room(
    raw_project: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk stays full: what the run held back is all the room there is."""
    reserve = journal_folder(raw_project.store) / "reserve.tmp"
    state = {"is_full": False}
    write = journal._write_at

    def no_room(fd: int, data: bytes, offset: int) -> None:
        if state["is_full"] and reserve.exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        write(fd, data, offset)

    monkeypatch.setattr(journal, "_write_at", no_room)
    in_phase(raw_project, monkeypatch, "reading", lambda: state.update(is_full=True))
    with pytest.raises(StoreError):
        raw_project.run()
    monkeypatch.undo()
    read_store_state(raw_project.store)
    status, reason, code, _ = last_row(raw_project)
    assert (status, reason, code) == ("failed", "store_failed", 5)


@pytest.mark.rest
def test_inputs_that_are_damaged_while_a_run_waits_make_no_store(
    raw_project: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_command, "_WAITED_S", -1.0)
    monkeypatch.setattr(run_command, "reload_inputs", failing(ManifestError("rows are gone")))
    with pytest.raises(ManifestError):
        raw_project.run()
    assert not raw_project.store.exists()
    with monkeypatch.context() as patch:
        patch.setattr(run_command, "_WAITED_S", 3600.0)
        assert raw_project.run().exit_code == 0
    with pytest.raises(ManifestError):
        raw_project.run()
    assert last_row(raw_project) == ("failed", "manifest_error", 2, 0)
