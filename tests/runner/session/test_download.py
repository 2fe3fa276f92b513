"""Weights of a hub model are fetched by a run that holds the store, and end as it ends."""

import json
import signal
import sys
import threading
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from thothy_batch.errors import EngineError, ModelError
from thothy_batch.model.checkpoint import download
from thothy_batch.resources import data_path
from thothy_batch.store import status_path

MODEL = "someone/larch"
COMMIT = "0123456789abcdef" * 2 + "01234567"
# Stands in for the hub client, also in the process that downloads. `state` says how it goes.
CLIENT = """
import fnmatch, os, pathlib, shutil, time
from huggingface_hub import constants, errors

root, source = pathlib.Path({root!r}), pathlib.Path({source!r})

def snapshot_download(model, *, revision, allow_patterns, ignore_patterns=None):
    folder = root / "snapshots" / {commit!r}
    folder.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        if any(fnmatch.fnmatch(path.name, pattern) for pattern in allow_patterns):
            if path.suffix == ".safetensors":
                fetch_weights()
            shutil.copyfile(path, folder / path.name)
    return str(folder)

def fetch_weights():
    (root / "bars").write_text(os.environ.get("HF_HUB_DISABLE_PROGRESS_BARS", "shown"))
    state = (root / "state").read_text()
    if state == "fails":
        raise errors.HfHubHTTPError("the line is down")
    blobs = pathlib.Path(constants.HF_HUB_CACHE) / "models--someone--larch" / "blobs"
    blobs.mkdir(parents=True, exist_ok=True)
    (blobs / "a.incomplete").write_bytes(bytes(3_000_000))
    while state == "hangs":
        time.sleep(60)
"""
ERRORS = (
    *("GatedRepoError", "RepositoryNotFoundError", "RevisionNotFoundError", "HFValidationError"),
    *("EntryNotFoundError", "OfflineModeIsEnabled", "HfHubHTTPError"),
)


class Hub:
    """The hub as the fake client sees it: goes well, fails or hangs."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.set("goes well")

    def set(self, state: str) -> None:
        (self.root / "state").write_text(state)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    root, package = tmp_path / "hub", tmp_path / "site" / "huggingface_hub"
    root.mkdir()
    package.mkdir(parents=True)
    source = str(data_path("sample_data") / "model")
    (package / "__init__.py").write_text(
        CLIENT.format(root=str(root), source=source, commit=COMMIT)
    )
    (package / "errors.py").write_text("".join(f"class {n}(Exception): ...\n" for n in ERRORS))
    (package / "constants.py").write_text(f"HF_HUB_CACHE = {str(root)!r}\n")
    for name in [n for n in sys.modules if n.partition(".")[0] == "huggingface_hub"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.setattr(download, "_LOOK_S", 0.05)
    yield Hub(root)
    for name in [n for n in sys.modules if n.partition(".")[0] == "huggingface_hub"]:
        del sys.modules[name]


@pytest.fixture
def hub_project(project: Any, hub: Hub) -> Any:
    project.rows("rows.parquet", id=list(range(5)), prompt=[f"prompt {i}" for i in range(5)])
    project.jobs("name: j, kind: raw, input: rows.parquet, sampling: {max_tokens: 4}", model=MODEL)
    project.hub = hub
    return project


def started(*args: Any, **more: Any) -> Any:
    """An engine that has all the files it needs."""
    raise EngineError("the engine was reached")


@pytest.mark.rest
def test_weights_of_one_commit_are_fetched_when_there_is_something_to_compute(
    hub_project: Any,
) -> None:
    commits = []

    def of_commit(spec: Any, **more: Any) -> Any:
        commits.append(spec.model.revision)
        return started()

    run = hub_project.run(start_engine=of_commit)
    assert "the engine was reached" in str(run.error)
    assert (hub_project.hub.root / "bars").read_text() == "1", "bars would spoil our own display"
    assert commits == [COMMIT], "the engine would load what the branch has become meanwhile"
    folder = hub_project.hub.root / "snapshots" / COMMIT
    assert (folder / "model.safetensors").exists()


@pytest.mark.rest
@pytest.mark.parametrize("stop", ["SIGTERM", "SIGINT", "deadline", "time_budget"])
def test_a_download_that_hangs_ends_with_the_run(
    hub_project: Any, monkeypatch: pytest.MonkeyPatch, shifted_clock: Any, stop: str
) -> None:
    """The bytes so far are told meanwhile, and the next run goes on."""
    told: list[str] = []
    states: list[str] = []

    def phase(text: str) -> None:
        if not text.startswith("downloading someone/larch: ") or told:
            return
        told.append(text)
        states.append(json.loads(status_path(hub_project.store).read_text())["state"])
        shifted_clock.advance(7200.0)
        number = signal.Signals[stop] if stop.startswith("SIG") else signal.SIGUSR2
        threading.Timer(0.1, signal.pthread_kill, [threading.main_thread().ident, number]).start()

    monkeypatch.setattr(hub_project.notes, "phase", phase)
    hub_project.hub.set("hangs")
    limits: dict[str, Any] = {}
    if stop == "deadline":
        limits["deadline"] = (datetime.now().astimezone() + timedelta(hours=1)).isoformat()
    elif stop == "time_budget":
        limits["time_budget_s"] = 3600.0
    run = hub_project.run(start_engine=started, **limits)
    reason = "signal" if stop.startswith("SIG") else stop
    assert (run.exit_code, run.status, run.stop_reason) == (4, "stopped", reason)
    assert run.counts["num_not_run"] == 5
    assert "MB so far" in told[0]
    assert states == ["downloading"]
    monkeypatch.setattr(hub_project.notes, "phase", lambda text: None)
    hub_project.hub.set("goes well")
    again = hub_project.run(start_engine=started)
    assert "the engine was reached" in str(again.error)


@pytest.mark.rest
def test_a_download_that_fails_ends_a_recorded_run(hub_project: Any) -> None:
    hub_project.hub.set("fails")
    run = hub_project.run(start_engine=started)
    assert isinstance(run.error, ModelError)
    assert "someone/larch" in run.error.message
    assert "the line is down" in run.error.message
    found = hub_project.query("select status, exit_code, num_not_run from runs")
    assert found == [("failed", 2, 5)]
