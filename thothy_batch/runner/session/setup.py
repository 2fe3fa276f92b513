"""The beginning of a run: everything checked that can be checked, then the row that says so."""

import platform
import secrets
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from thothy_batch import __version__
from thothy_batch.engine.model_info import ModelInfo, model_info
from thothy_batch.errors import ManifestError
from thothy_batch.manifest.settings import (
    Manifest,
    load_manifest,
    parse_deadline,
    to_engine_spec,
)
from thothy_batch.records import EngineSpec
from thothy_batch.runner.entries.entry import Entry
from thothy_batch.runner.entries.job import Job, open_jobs
from thothy_batch.runner.entries.prepare import setting_of
from thothy_batch.runner.entries.rendering import RenderContext
from thothy_batch.runner.monitoring.progress import Observer
from thothy_batch.runner.session.options import RunOptions
from thothy_batch.runner.session.stop_conditions import Stopping
from thothy_batch.runner.work.counts import RunCounts
from thothy_batch.store.store import Store


@dataclass(slots=True)
class RunContext:
    """What a run goes by, settled before anything starts."""

    options: RunOptions
    observer: Observer
    manifest: Manifest
    jobs: list[Job]
    spec: EngineSpec
    facts: ModelInfo
    setting: RenderContext
    started: datetime
    run_id: str
    stopping: Stopping
    began: float = field(default_factory=time.monotonic)
    load_s: float = 0.0


def prepare_run(options: RunOptions, observer: Observer) -> RunContext:
    """Reads the manifest and looks at inputs and model.

    Raises ManifestError, with all problems, and ModelError.
    """
    observer.phase("checking the manifest")
    started = datetime.now().astimezone()
    manifest = load_manifest(options.manifest, options.overrides)
    deadline = _deadline(options, manifest, started)
    jobs = open_jobs(manifest)
    spec = to_engine_spec(manifest)
    facts = model_info(spec)
    return RunContext(
        options=options,
        observer=observer,
        manifest=manifest,
        jobs=jobs,
        spec=spec,
        facts=facts,
        setting=setting_of(manifest, jobs, facts, spec),
        started=started,
        run_id=f"{started:%Y%m%d-%H%M%S}-{secrets.token_hex(3)}",
        stopping=Stopping(
            deadline=deadline, time_budget_s=_budget(options, manifest), started=started
        ),
    )


def reload_inputs(run: RunContext) -> None:
    """A run that had to wait reads what its inputs are now. Its jobs' deadlines stay."""
    jobs = open_jobs(run.manifest)
    for job, before in zip(jobs, run.jobs, strict=True):
        job.ends_at = before.ends_at
    run.jobs = jobs
    run.setting = setting_of(run.manifest, jobs, run.facts, run.spec)


def time_left(options: RunOptions, manifest: Manifest) -> float | None:
    """Seconds that a run started now would have; None: as long as it takes."""
    now = datetime.now().astimezone()
    deadline, budget = _deadline(options, manifest, now), _budget(options, manifest)
    ends = [] if budget is None else [budget]
    if deadline is not None:
        ends.append((deadline - now).total_seconds())
    return min(ends, default=None)


def _budget(options: RunOptions, manifest: Manifest) -> float | None:
    return options.time_budget_s if options.time_budget_s is not None else manifest.run.time_budget


def _deadline(options: RunOptions, manifest: Manifest, now: datetime) -> datetime | None:
    text = options.deadline or manifest.run.deadline
    if text is None:
        return None
    try:
        return parse_deadline(text, now)
    except ValueError as error:
        raise ManifestError(f"--deadline: {error}") from None


def begin_run(run: RunContext, store: Store, account: RunCounts, entries: Iterable[Entry]) -> None:
    """Enters the run and its entries into the store's history."""
    manifest = run.manifest
    store.begin_run(
        {
            "run_id": run.run_id,
            "name": manifest.path.stem,
            "status": "running",
            "started_at": run.started,
            "manifest": manifest.as_json(),
            "manifest_hash": manifest.manifest_hash,
            "model": {"id": manifest.model.id, "name": run.facts.name},
            "engine": manifest.engine.model_dump(mode="json"),
            "versions": {"thothy-batch": __version__, "python": platform.python_version()},
            "host": socket.gethostname(),
            "jobs": [
                {
                    "job": count.name,
                    "kind": count.kind,
                    "priority": count.priority,
                    "num_items": count.num_items,
                }
                for count in account.jobs
            ],
        },
        (entry.key for entry in entries),
    )
