"""The engine's process killed from outside, hanging, short of memory; a run with a deadline."""

import contextlib
import os
import re
import signal
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from thothy_batch.engine.protocol import EngineClient
from thothy_batch.engine.start import start_in_process
from thothy_batch.manifest.settings import Overrides
from thothy_batch.records import EngineSpec
from thothy_batch.runner.commands.run import run_manifest
from thothy_batch.runner.monitoring.progress import Silent
from thothy_batch.runner.session.options import RunOptions
from thothy_batch.runner.session.summary import RunSummary

TEST_S = 300  # of true time that a test has at most
DIED = "the engine died: the engine process was killed by signal"


def greedy(rows: Any) -> list[Any]:
    """Job, item and text of the rows that depend on the model alone, whatever its knobs."""
    return [(row[0], row[1], row[3]) for row in rows if row[0] == "greedy"]


def engine_of(command: Any) -> int:
    """The engine's process."""
    (task,) = Path(f"/proc/{command.process.pid}/task").glob(f"{command.process.pid}")
    (pid,) = (task / "children").read_text().split()
    return int(pid)


@pytest.mark.rest
@pytest.mark.parametrize(
    "number", [signal.SIGKILL, pytest.param(signal.SIGSEGV, marks=pytest.mark.rest)]
)
def test_an_engine_killed_from_outside_costs_its_steps_alone(
    project: Any, undisturbed: Any, number: int
) -> None:
    command = project.start_run(faults=project.hold("engine.step:30"))
    command.wait_until_held()
    os.kill(engine_of(command), number)
    command.release()
    outcome = command.end()
    assert outcome.code == 0, outcome
    name = signal.Signals(number).name
    assert re.search(rf"{DIED} {number} \({name}\).*; \d+ requests go to the next one", outcome.err)
    project.check_whole(undisturbed)
    assert project.query("select event from engine_events") == [("engine_died",)]


@pytest.mark.rest
def test_an_engine_killed_again_and_again_while_it_loads_ends_the_run(project: Any) -> None:
    """Five times in a row: there is no hope. What was answered is kept."""
    may_load = project.folder / "may-load"
    may_load.touch()
    command = project.start_run(
        faults=f"{project.hold('engine.step:40')},engine.load=hold:{may_load}"
    )
    command.wait_until_held()
    may_load.unlink()  # none of those that follow comes to compute
    while not command.has_ended:
        with contextlib.suppress(ValueError, OSError):
            os.kill(engine_of(command), signal.SIGKILL)
        time.sleep(0.05)
    outcome = command.end()
    assert outcome.code == 5, outcome
    assert "error: the engine process was killed by signal 9 (SIGKILL)" in outcome.err
    assert project.query("select status, stop_reason, exit_code from runs") == [
        ("failed", "engine_failed", 5)
    ]


@pytest.mark.rest
def test_an_engine_that_hangs_is_started_anew(
    project: Any, undisturbed: Any, tmp_path: Any
) -> None:
    hung = tmp_path / "hung"
    project.manifest(
        f"step_ms=2&fail=hang&fail_at_step=9&fail_once={hung}", more="run: {stall_after: 5s}"
    )
    outcome = project.run()
    assert outcome.code == 0, outcome
    log = re.escape(str(project.journal / "engine.log"))
    stalled = r"the engine died: no step was finished for \d+ s; the stacks of its threads are in "
    assert re.search(stalled + log, outcome.err)
    assert "_fail" in (project.journal / "engine.log").read_text()
    found = project.query("select job, item_id, '', text from artifacts order by all")
    assert greedy(found) == greedy(undisturbed)


@pytest.mark.rest
def test_an_engine_short_of_memory_goes_on_with_smaller_steps(
    project: Any, undisturbed: Any, tmp_path: Any
) -> None:
    project.manifest(f"step_ms=2&fail=memory&fail_at_step=9&fail_once={tmp_path / 'short'}")
    outcome = project.run()
    assert outcome.code == 0, outcome
    assert re.search(
        r"the engine died: the engine ran out of memory; \d+ requests go to the next one; \d+ "
        r"tokens are lost; its steps have at most [\d,]+ tokens",
        outcome.err,
    )
    found = project.query("select job, item_id, '', text from artifacts order by all")
    assert greedy(found) == greedy(undisturbed)


@pytest.mark.rest
def test_a_row_that_kills_every_engine_among_200_is_put_aside(project: Any) -> None:
    prompts = [f"prompt {n}" for n in range(199)] + ["the # row"]
    table = pa.table({"id": list(range(200)), "prompt": prompts})
    pq.write_table(table, project.folder / "rows.parquet")
    project.manifest(f"fail=kill&poison={ord('#')}")
    outcome = project.run("--job", "greedy")
    assert outcome.code == 1, outcome
    assert "199 done, 0 reused, 1 failed, 0 not run, of 200 entries" in outcome.out
    ((item, code, message),) = project.query("select item_id, code, message from failures")
    assert (item, code) == ("199", "engine_error")
    assert message.startswith("the engine died each time it computed this row, at last alone: ")


@pytest.mark.rest
def test_a_run_with_minutes_to_its_deadline(
    project: Any, undisturbed: Any, virtual_clock: Any
) -> None:
    """It ends in time with what fits; the next one does the rest."""
    project.rows(400, "many.parquet")
    project.manifest("step_ms=400", rows="many.parquet")
    ends_at, row_s = virtual_clock.now + 400, 25 * 0.4
    deadline = datetime.fromtimestamp(virtual_clock.time() + 400).astimezone()
    run = run_here(project, deadline=deadline.isoformat())
    assert (run.exit_code, run.stop_reason) == (4, "deadline")
    assert ends_at - row_s - TEST_S < virtual_clock.now <= ends_at
    counts = project.query("select num_done, num_not_run, num_items, wasted_tokens from runs")
    ((num_done, num_not_run, num_items, wasted),) = counts
    assert num_done > 100
    assert num_done + num_not_run == num_items == 800
    assert wasted == 0
    reasons = project.query("select distinct reason from run_items where status = 'not_run'")
    assert reasons == [("deadline",)]
    assert run_here(project, Overrides(limit=60)).exit_code == 0
    found = project.query(
        "select job, item_id, '', text from artifacts where item_id::int < 60 order by all"
    )
    assert greedy(found) == greedy(undisturbed)


def run_here(project: Any, overrides: Overrides | None = None, **more: Any) -> RunSummary:
    """A run in this process, by its clock."""
    manifest = project.folder / "night.yaml"
    options = RunOptions(manifest, overrides or Overrides(), start_engine=start_here, **more)
    return run_manifest(options, Silent())


def start_here(
    spec: EngineSpec, *, log_path: Path | None = None, on_phase: Any = None
) -> EngineClient:
    return start_in_process(spec)
