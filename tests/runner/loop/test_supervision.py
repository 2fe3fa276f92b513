"""Runs whose engine dies: every row has a result or a failure, and the report has the cause."""

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from report_text import render_text

from thothy_batch.engine.start import start_supervised
from thothy_batch.records import EngineSpec
from thothy_batch.resources import data_path
from thothy_batch.store.queries.read import report_data

POISON = ord("#")


def rows(project: Any, num: int, poison: int, model: str, more: str = "") -> None:
    prompts = [f"row {i}" for i in range(num)]
    prompts[poison] = "a row with a # in it"
    project.rows("rows.parquet", id=list(range(num)), prompt=prompts)
    project.jobs(
        "name: j, kind: raw, input: rows.parquet, sampling: {max_tokens: 8, ignore_eos: true}",
        model=model,
        more=more,
    )


@pytest.mark.rest
@pytest.mark.parametrize("how", ["segv", "kill"])
def test_a_poison_row_among_200_costs_itself_alone(project: Any, how: str) -> None:
    rows(project, 200, 123, f"builtin:fake?fail={how}&poison={POISON}")
    run = project.run(start_engine=start_supervised)
    assert (run.exit_code, run.status, run.error) == (1, "completed", None)
    assert (run.counts["num_done"], run.counts["num_failed"]) == (199, 1)
    (failure,) = project.query("select item_id, code, message from failures")
    assert failure[:2] == ("123", "engine_error")
    assert "each time it computed this row" in failure[2]
    events = project.query(
        "select event, count(*) from engine_events group by event order by event"
    )
    assert events[1] == ("request_quarantined", 1)
    assert events[0][0] == "engine_died"
    assert 2 <= events[0][1] <= 12
    outputs = project.query("select item_id, text from artifacts order by item_id")
    project.store.unlink()
    rows(project, 200, 123, "builtin:fake")
    undisturbed = project.run()
    assert undisturbed.counts["num_done"] == 200
    assert set(outputs) < set(project.query("select item_id, text from artifacts"))


@pytest.mark.rest
def test_a_hang_is_named_in_store_and_report(
    project: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shifted_clock: Any
) -> None:
    hung = tmp_path / "hung"

    def time_passes(snapshot: object) -> None:
        if hung.exists() and not project.notes.texts:
            shifted_clock.advance(100.0)

    monkeypatch.setattr(project.notes, "progress", time_passes)
    model = f"builtin:fake?fail=hang&fail_at_step=3&fail_once={hung}"
    rows(project, 20, 5, model, more="run: {stall_after: 10m}")
    run = project.run(start_engine=start_supervised)
    assert (run.exit_code, run.counts["num_done"]) == (0, 20)
    ((message,),) = project.query("select message from engine_events")
    assert "no step was finished for " in message
    assert message.split(";")[0] in render_text(report_data(project.store))


@pytest.mark.rest
def test_results_of_two_models_never_mix_in_one_run(project: Any) -> None:
    """The checkpoint is replaced while the engine runs, which then dies and is restarted."""
    model = Path(shutil.copytree(data_path("sample_data") / "model", project.folder / "model"))
    project.rows("rows.parquet", id=list(range(8)), prompt=[f"prompt {i}" for i in range(8)])
    sampling = "{max_tokens: 200, ignore_eos: true}"
    project.jobs(f"name: j, kind: raw, input: rows.parquet, sampling: {sampling}", model=str(model))

    def start(spec: EngineSpec, *, log_path: Path | None = None, on_phase: Any = None) -> Any:
        engine: Any = start_supervised(spec, log_path=log_path)
        weights = next(model.glob("*.safetensors"))
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.with_suffix(".new").write_bytes(content)
        weights.with_suffix(".new").replace(weights)
        os.kill(engine._slot.engine.pid, signal.SIGKILL)
        return engine

    run = project.run(start_engine=start)
    assert run.exit_code == 5
    assert f"the model {model} has been changed since this run began" in str(run.error)
    assert run.counts["num_done"] == 0
    again = project.run(start_engine=start_supervised)
    assert (again.exit_code, again.counts["num_done"]) == (0, 8)
