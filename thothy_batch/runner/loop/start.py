"""Starts the loop of a run: plan, load the engine, record what it is, queue the requests."""

import logging
from dataclasses import asdict, replace
from datetime import datetime

from thothy_batch import __version__
from thothy_batch.engine.protocol import EngineClient
from thothy_batch.errors import StoreError
from thothy_batch.model.checkpoint import download_weights, is_on_hub
from thothy_batch.model.tokenizer import ReasoningSplitter
from thothy_batch.records import EngineInfo, ModelSpec, ResolvedModel
from thothy_batch.runner.entries.rendering import make_renderer
from thothy_batch.runner.loop.cancellation import Cancellations
from thothy_batch.runner.loop.engine_feed import EngineFeed
from thothy_batch.runner.loop.result_handler import ResultHandler
from thothy_batch.runner.loop.result_writer import ResultWriter
from thothy_batch.runner.loop.run_loop import RunLoop
from thothy_batch.runner.monitoring.progress import Forecast
from thothy_batch.runner.monitoring.reporter import ProgressReporter, StatusFile
from thothy_batch.runner.planning.engine_plan import EnginePlan
from thothy_batch.runner.planning.engine_spec import check_gpu_memory
from thothy_batch.runner.planning.pipeline import plan_engine
from thothy_batch.runner.planning.run_plan import RunPlan
from thothy_batch.runner.session.run_context import RunContext
from thothy_batch.runner.work.assignment import Assignment
from thothy_batch.runner.work.retry_policy import RetryPolicy
from thothy_batch.runner.work.roofline_receipt import RooflineReceipt
from thothy_batch.store import Store

_log = logging.getLogger(__name__)


def start_loop(
    run: RunContext, writer: ResultWriter, status: StatusFile, assignment: Assignment
) -> RunLoop:
    """Plan the requests and load the engine. Raises StopNow, ModelError and EngineError."""
    run.observer.phase("planning")
    with run.stop_conditions.interruptible():
        plan = _plan(run, writer.store, assignment)
    # The commit that the requests were made for, even if the branch has moved meanwhile.
    commit = run.inputs.model_info.commit or plan.spec.model.revision
    spec = replace(plan.spec, model=replace(plan.spec.model, revision=commit))
    _download(run, status, spec.model)
    run.observer.phase(f"loading {run.inputs.model_info.name}")
    status.write("loading", **run.counts.as_json())
    engine: EngineClient | None = None
    try:
        with run.stop_conditions.interruptible():
            engine = run.options.start_engine(
                spec, log_path=run.paths.engine_log, on_phase=run.observer.phase
            )
        return _begin(run, writer, status, plan, engine)
    except BaseException:
        if engine is not None:
            engine.close()
        raise


def _download(run: RunContext, status: StatusFile, model: ModelSpec) -> None:
    """Fetch what is missing of a hub model."""
    if model.random_weights or not is_on_hub(model.id):
        return
    status.write("downloading", **run.counts.as_json())
    with run.stop_conditions.interruptible():
        download_weights(model, run.observer.phase)


def _plan(run: RunContext, store: Store, assignment: Assignment) -> EnginePlan:
    inputs = run.inputs
    check_gpu_memory(inputs.spec, inputs.model_info, run.observer.note)
    try:
        history = store.past_outputs([job.name for job in inputs.jobs], inputs.model_info.name)
    except StoreError:
        history = {}  # estimates are not worth a run that stops for them
    return plan_engine(
        inputs,
        assignment.pending,
        history=history,
        time_left=lambda: run.stop_conditions.time_left_s,
        phase=run.observer.phase,
    )


def _begin(
    run: RunContext,
    writer: ResultWriter,
    status: StatusFile,
    plan: EnginePlan,
    engine: EngineClient,
) -> RunLoop:
    """Record the loaded engine and build the loop. Nothing is submitted yet."""
    info, store = engine.info, writer.store
    _log.info("the engine is ready after %.1f s: %s", info.load_s, info.engine)
    run.load_s = info.load_s
    _record_engine(run, store, plan, info)
    for text in info.notes:
        run.observer.note(text)
    plan.replan_for_pool(info)
    _record_plan(store, plan.run_plan)
    loop = _build_loop(run, writer, status, plan, engine)
    run.observer.phase("computing")
    return loop


def _build_loop(
    run: RunContext,
    writer: ResultWriter,
    status: StatusFile,
    plan: EnginePlan,
    engine: EngineClient,
) -> RunLoop:
    inputs, info, run_plan = run.inputs, engine.info, plan.run_plan
    tokenizer = inputs.model_info.tokenizer
    feed = EngineFeed(engine, plan.estimates)
    # Unfit requests come last: the engine refuses them with its own message.
    feed.pending.extend([*run_plan.pending, *(pending for pending, _ in run_plan.unfit)])
    forecast = Forecast.of(pending.request for pending in feed.pending)
    results = ResultHandler(
        writer=writer,
        feed=feed,
        forecast=forecast,
        estimates=plan.estimates,
        retry_policy=RetryPolicy(
            inputs.manifest.run.seed,
            inputs.manifest.run.max_attempts,
            min(info.engine.max_model_len, info.engine.num_blocks * info.engine.block_size),
        ),
        render=make_renderer(inputs.render_context),
        reasoning=ReasoningSplitter(tokenizer) if tokenizer is not None else None,
        roofline_receipt=RooflineReceipt(
            inputs.model_info.work, info.engine.device_limits, inputs.spec.block_size
        ),
        event_log=status.log,
        note=run.observer.note,
    )
    return RunLoop(
        feed=feed,
        results=results,
        cancellations=Cancellations(writer, feed, forecast, results.finalize),
        writer=writer,
        stop_conditions=run.stop_conditions,
        grace_s=inputs.manifest.run.grace,
        report=ProgressReporter(
            writer.store, status, run.counts, forecast, run.observer, run.began
        ),
        event_log=status.log,
        note=run.observer.note,
    )


def _record_engine(run: RunContext, store: Store, plan: EnginePlan, info: EngineInfo) -> None:
    store.update_run(
        {
            "model": {**_as_json(info.model), "fingerprint": run.inputs.model_info.fingerprint},
            "engine": {**info.engine.as_json(), "order": plan.order},
            "versions": {**info.versions, "thothy-batch": __version__},
            "load_s": info.load_s,
            "engine_ready_at": datetime.now().astimezone(),
        }
    )


def _as_json(model: ResolvedModel) -> dict[str, object]:
    """The model as `runs.model` records it, without its fingerprint."""
    is_fake = not model.architecture
    return {"name": model.name, "dtype": model.dtype} if is_fake else asdict(model)


def _record_plan(store: Store, plan: RunPlan) -> None:
    """Record the planned tokens and predicted times, to be compared with the outcome."""
    prediction = plan.prediction
    store.update_run(
        {
            "planned_prompt_tokens": plan.planned_prompt_tokens,
            "predicted_s": prediction.seconds if prediction else None,
        }
    )
    if prediction is not None:
        store.record_predictions({name: part.engine_s for name, part in prediction.jobs.items()})
