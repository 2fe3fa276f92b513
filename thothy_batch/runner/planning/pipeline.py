"""The pipeline of a run: manifest → entries → plan → engine specification.

`run` and `plan` go through it in this order. `bench` has requests in place of a manifest and shares
the steps of `engine_spec`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from thothy_batch.engine.core import EngineConfig
from thothy_batch.engine.model_info import ModelInfo
from thothy_batch.manifest import Manifest, to_engine_spec
from thothy_batch.records import EngineSpec
from thothy_batch.runner.entries.entry import Entry
from thothy_batch.runner.entries.job import Job, open_jobs
from thothy_batch.runner.entries.prepare import prepare_entries, render_context
from thothy_batch.runner.entries.rendering import RenderContext
from thothy_batch.runner.monitoring.progress import Observer
from thothy_batch.runner.planning.engine_plan import EnginePlan
from thothy_batch.runner.planning.engine_spec import (
    expected_config,
    expected_speed,
    request_measurements,
    resolve_engine,
    size_pool,
)
from thothy_batch.runner.planning.run_plan import (
    RunPlan,
    build_run_plan,
    most_tokens,
    output_estimates,
)
from thothy_batch.runner.work.pending_request import PendingRequest


@dataclass(frozen=True, slots=True)
class RunInputs:
    """A checked manifest with its open jobs, its model and its resolved engine specification."""

    manifest: Manifest
    jobs: list[Job]
    spec: EngineSpec
    model_info: ModelInfo
    render_context: RenderContext


def open_inputs(
    manifest: Manifest,
    *,
    started: datetime | None = None,
    need_weights: bool = True,
    phase: Callable[[str], None] = lambda text: None,
) -> RunInputs:
    """Open the jobs and resolve the engine, once for everything that follows.

    `started`: the run's beginning in local time, by default this moment. `phase` is told what is
    done. Raises ManifestError, with all problems, and ModelError.
    """
    phase("opening the inputs")
    jobs = open_jobs(manifest)
    phase(_about_model(manifest.model.id))
    spec, model = resolve_engine(to_engine_spec(manifest), need_weights=need_weights)
    moment = datetime.now() if started is None else started
    context = render_context(manifest, jobs, model, spec, moment)
    return RunInputs(manifest, jobs, spec, model, context)


def _about_model(model_id: str) -> str:
    """The phase in which the model is described, and downloaded if it is of the hub."""
    is_here = not model_id or ":" in model_id or Path(model_id).expanduser().exists()
    return "looking at the model" + ("" if is_here else f": {model_id}, what is missing is fetched")


def read_entries(inputs: RunInputs, observer: Observer) -> Iterator[Entry]:
    """Every entry with its prompt and request key, or failed. Raises ManifestError."""
    observer.phase("reading and tokenising")

    def report(num: int) -> None:
        observer.phase(f"reading and tokenising: {num:,} entries")

    return prepare_entries(inputs.jobs, inputs.render_context, report=report)


def plan_engine(
    inputs: RunInputs,
    pending: Sequence[PendingRequest],
    *,
    history: Mapping[str, Sequence[int]],
    time_left: Callable[[], float | None],
    phase: Callable[[str], None] = lambda text: None,
) -> EnginePlan:
    """Plan the requests for the engine that this machine would give now.

    `history`: output tokens of each job's earlier artifacts. `time_left`: seconds, asked whenever
    the plan is built. `phase` is told how far the plan is. Raises ModelError and EngineError as the
    engine would.
    """
    model, order = inputs.model_info, inputs.manifest.engine.order
    spec = sized_spec(inputs, pending)
    config = expected_config(spec, model)
    estimates = output_estimates(history, inputs.jobs)
    speed = expected_speed(config, model)

    def plan(config: EngineConfig) -> RunPlan:
        return build_run_plan(
            pending,
            order,
            config=config,
            estimates=estimates,
            model=model.work,
            known_speed=speed,
            time_left_s=time_left(),
            phase=phase,
        )

    return EnginePlan(spec, config, order, estimates, speed, plan(config), plan)


def sized_spec(inputs: RunInputs, pending: Sequence[PendingRequest]) -> EngineSpec:
    """The specification that the engine is started with for these requests."""
    model, limits = inputs.model_info, inputs.model_info.limits(inputs.spec)
    longest = max((most_tokens(each, limits) for each in pending), default=0)
    spec = size_pool(inputs.spec, (each.request for each in pending), longest)
    return replace(request_measurements(spec, model), fingerprint=model.fingerprint)
