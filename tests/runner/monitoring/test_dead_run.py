"""A run that is killed cannot end its status and metrics files: the next command does."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from thothy_batch.errors import LockHolder
from thothy_batch.runner.commands.plan import plan_manifest
from thothy_batch.runner.commands.report import export_artifacts, report_document
from thothy_batch.runner.monitoring.progress import Silent
from thothy_batch.runner.monitoring.store_state import read_store_state
from thothy_batch.store.files import lock_path, status_path
from thothy_batch.store.lock import FileLock
from thothy_batch.store.store import Store


class Killed(BaseException):
    """Ends a run at once: it writes nothing more."""


@pytest.fixture
def killed_project(raw_project: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A run of 12 entries that was killed when its engine had answered."""
    text = raw_project.manifest.read_text()
    raw_project.manifest.write_text(f"{text}run: {{metrics_file: night.prom}}\n")

    def killed(*args: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("thothy_batch.runner.commands.run.finish_run", killed)
        patch.setattr(Store, "close", lambda store: store._journal.commit())
        with pytest.raises(Killed):
            raw_project.run()
    return raw_project


def status_of(project: Any) -> dict[str, Any]:
    return dict(json.loads(status_path(project.store).read_text()))


def metrics_of(project: Any) -> str:
    return str((project.folder / "night.prom").read_text())


COMMANDS = {
    "status": lambda project: read_store_state(project.store),
    "report": lambda project: report_document(project.store, None),
    "plan": lambda project: plan_manifest(project.options(), Silent()),
    "export": lambda project: export_artifacts(
        project.store, job=None, run=None, format="csv", output=project.folder / "out.csv"
    ),
}


@pytest.mark.few(1)
@pytest.mark.parametrize("command", COMMANDS)
def test_the_next_command_ends_the_files_of_a_killed_run(killed_project: Any, command: str) -> None:
    before = status_of(killed_project)
    assert before["state"] not in ("finished", "killed")
    COMMANDS[command](killed_project)
    status = status_of(killed_project)
    ending = ("killed", "failed", "killed")
    assert (status["state"], status["status"], status["stop_reason"]) == ending
    assert (status["run_id"], status["num_items"], status["num_done"]) == (before["run_id"], 12, 12)
    text = metrics_of(killed_project)
    assert 'state="killed"' in text
    assert 'thothy_batch_entries{job="j",status="done"} 12.0' in text
    assert "running_requests" not in text
    COMMANDS[command](killed_project)
    assert status_of(killed_project) == status, "and once only"


@pytest.mark.rest
def test_the_next_run_ends_a_metrics_file_that_it_does_not_write_itself(
    killed_project: Any,
) -> None:
    text = killed_project.manifest.read_text().replace("night.prom", "other.prom")
    killed_project.manifest.write_text(text)
    killed_project.run()
    assert 'state="killed"' in metrics_of(killed_project)
    assert 'state="finished"' in (killed_project.folder / "other.prom").read_text()


def test_the_files_of_a_run_that_goes_on_are_left_alone(killed_project: Any) -> None:
    before = status_of(killed_project), metrics_of(killed_project)
    holder = LockHolder(pid=os.getpid(), run_id=before[0]["run_id"])
    with FileLock(lock_path(killed_project.store)).acquire(holder):
        assert read_store_state(killed_project.store)["state"] == "running"
        report_document(killed_project.store, None)
    assert (status_of(killed_project), metrics_of(killed_project)) == before


def test_a_run_that_died_before_it_was_recorded_is_ended_too(raw_project: Any) -> None:
    raw_project.run()
    path: Path = status_path(raw_project.store)
    preparing = {**status_of(raw_project), "state": "preparing", "run_id": "20260101-000000-aaaaaa"}
    path.write_text(json.dumps(preparing))
    assert read_store_state(raw_project.store)["last_run"]["status"] == "completed"
    status = status_of(raw_project)
    assert (status["state"], status["stop_reason"]) == ("killed", "killed")
