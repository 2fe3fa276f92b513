"""`status` answers while another program has the store to itself."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pytest

from thothy_batch.errors import StoreBusyError
from thothy_batch.runner.monitoring import dead_run
from thothy_batch.runner.monitoring.store_state import read_store_state
from thothy_batch.store.files import status_path
from thothy_batch.store.queries import read

_HOLD = """
import sys, duckdb
connection = duckdb.connect(sys.argv[1])
print("open", flush=True)
sys.stdin.readline()
"""


@contextmanager
def held_open(store: Path) -> Iterator[None]:
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(store)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf-8",
    )
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == "open\n"
        yield
    finally:
        holder.communicate("\n")


@pytest.fixture
def done_project(project: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(read, "_RETRY_S", 0.1)
    project.rows("rows.parquet", id=["a", "b"], text=["A lamp.", "A chair."])
    project.jobs("name: s, kind: summary, input: rows.parquet, sampling: {max_tokens: 4}")
    project.run()
    return project


def test_the_end_of_the_last_run_is_known_from_the_status_file(done_project: Any) -> None:
    free = read_store_state(done_project.store)
    with held_open(done_project.store):
        held = read_store_state(done_project.store)
    for name in ("run_id", "status", "num_items", "num_done", "num_failed"):
        assert held["last_run"][name] == free["last_run"][name]
    assert held["state"] == "idle"


def test_a_killed_run_is_known_from_the_status_file(done_project: Any) -> None:
    """No run holds the store, so one that the file says is running is dead."""
    path = status_path(done_project.store)
    running = json.loads(path.read_text()) | {"state": "running"}
    path.write_text(json.dumps(running))
    with held_open(done_project.store):
        last_run = read_store_state(done_project.store)["last_run"]
    assert (last_run["status"], last_run["stop_reason"], last_run["num_done"]) == (
        ("failed", "killed", 2)
    )


def test_a_run_whose_end_has_no_room_in_the_store_is_not_running(
    done_project: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = read_store_state(done_project.store)["last_run"]
    with duckdb.connect(str(done_project.store)) as connection:
        connection.execute("update runs set status = 'running', num_done = null, num_items = null")
    monkeypatch.setattr(dead_run, "publish_if_free", lambda store: False)  # as by a full disk
    last_run = read_store_state(done_project.store)["last_run"]
    for name in ("run_id", "status", "num_items", "num_done", "num_failed"):
        assert last_run[name] == before[name]


@pytest.mark.rest
def test_without_a_finished_run_in_the_status_file_the_store_is_busy(done_project: Any) -> None:
    status_path(done_project.store).unlink()
    with held_open(done_project.store), pytest.raises(StoreBusyError):
        read_store_state(done_project.store)
