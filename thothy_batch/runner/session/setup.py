"""The beginning of a run: check everything that can be checked, then record the run's start."""

import platform
import secrets
import socket
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from thothy_batch import __version__
from thothy_batch.manifest import load_manifest
from thothy_batch.model.checkpoint import is_on_hub
from thothy_batch.runner.entries.entry import Entry
from thothy_batch.runner.entries.job import open_jobs
from thothy_batch.runner.entries.prepare import render_context, template_notes
from thothy_batch.runner.monitoring.progress import Observer
from thothy_batch.runner.planning.pipeline import RunInputs, open_inputs
from thothy_batch.runner.session.options import RunOptions
from thothy_batch.runner.session.run_context import RunContext
from thothy_batch.runner.session.stop_conditions import StopConditions
from thothy_batch.runner.work.counts import RunCounts
from thothy_batch.store import Store, StorePaths


def new_run_id() -> str:
    """The id of a run that starts now."""
    return f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


def prepare_run(options: RunOptions, observer: Observer, run_id: str) -> RunContext:
    """Read the manifest, open its inputs and describe its model.

    Raises ManifestError, with all problems, and ModelError.
    """
    observer.phase("checking the manifest")
    started = datetime.now().astimezone()
    manifest = load_manifest(options.manifest, options.overrides, day=started.date())
    for note in manifest.notes:
        observer.note(note)
    deadline = options.deadline_of(manifest, started)
    # Of the hub's models the weights are fetched when the store is held and the clocks run.
    need_weights = not is_on_hub(manifest.model.id)
    inputs = open_inputs(manifest, started=started, need_weights=need_weights, phase=observer.phase)
    _note_templates(inputs, observer)
    return RunContext(
        run_id=run_id,
        options=options,
        observer=observer,
        inputs=inputs,
        paths=StorePaths.of(manifest.store, manifest.metrics_path),
        stop_conditions=StopConditions(
            deadline=deadline, time_budget_s=options.time_budget_of(manifest)
        ),
        counts=RunCounts.of(inputs.jobs),
        started=started,
        began=time.monotonic(),
    )


def start_clocks(run: RunContext) -> None:
    """Count the run's time from now, when it holds the store; waiting for another run is no part
    of it."""
    run.started, run.began = datetime.now().astimezone(), time.monotonic()
    run.stop_conditions.start_budget()


def _note_templates(inputs: RunInputs, observer: Observer) -> None:
    """Note what a user may not expect of the chat templates; the test model needs none."""
    if inputs.model_info.work is not None:
        for text in template_notes(inputs.render_context):
            observer.note(text)


def reload_inputs(run: RunContext) -> None:
    """Open the inputs again after a long wait for the lock. The jobs' deadlines stay."""
    inputs = run.inputs
    jobs = open_jobs(inputs.manifest)
    for job, before in zip(jobs, inputs.jobs, strict=True):
        job.deadline, job.ends_at = before.deadline, before.ends_at
    context = render_context(inputs.manifest, jobs, inputs.model_info, inputs.spec, run.started)
    run.inputs = replace(inputs, jobs=jobs, render_context=context)


def begin_row(run: RunContext) -> dict[str, object]:
    """The run as the store's history has it from its beginning, before its entries are known."""
    manifest = run.inputs.manifest
    return {
        "run_id": run.run_id,
        "name": manifest.path.stem,
        "status": "running",
        "started_at": run.started,
        "manifest": manifest.as_json(),
        "manifest_hash": manifest.manifest_hash,
        "model": {"id": manifest.model.id, "name": run.inputs.model_info.name},
        "engine": manifest.engine.model_dump(mode="json"),
        "versions": {"thothy-batch": __version__, "python": platform.python_version()},
        "host": socket.gethostname(),
        "jobs": [
            {"job": count.name, "kind": count.kind, "priority": count.priority}
            for count in run.counts.jobs
        ],
    }


def record_entries(run: RunContext, store: Store, entries: Sequence[Entry]) -> None:
    """Count the run's entries, and record them in the store's history."""
    run.counts.add_entries(entries)
    numbers = [{"job": count.name, "num_items": count.num_items} for count in run.counts.jobs]
    store.record_entries(numbers, (entry.key for entry in entries))
