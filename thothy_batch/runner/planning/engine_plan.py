"""What a run knows of its night before the first token: engine settings, order, predicted time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from thothy_batch.engine.core.config import EngineConfig, resolve_device
from thothy_batch.engine.cost.known_speed import KnownSpeed, lookup_speed
from thothy_batch.engine.hardware.cpu import num_threads
from thothy_batch.engine.hardware.gpu import find_gpu
from thothy_batch.engine.hardware.gpu_processes import check_free_memory
from thothy_batch.engine.hardware.host_memory import free_bytes
from thothy_batch.engine.model_info import ModelInfo
from thothy_batch.errors import StoreError
from thothy_batch.plan import OutputEstimates
from thothy_batch.records import EngineInfo, EngineSpec
from thothy_batch.runner.planning.run_plan import (
    RunPlan,
    build_run_plan,
    most_tokens,
    output_estimates,
)
from thothy_batch.runner.session.setup import RunContext
from thothy_batch.runner.work.assignment import PendingRequest
from thothy_batch.store.store import Store

# A night that takes this long at least is worth the seconds of calibrating.
_CALIBRATE_FROM_S = 300.0
_SLOW_FLOPS = 2e11  # of a device of which nothing is known


@dataclass(slots=True)
class EnginePlan:
    """A night before its engine is loaded."""

    order: str
    spec: EngineSpec  # what the engine is started with
    config: EngineConfig  # what it will make of that
    estimates: OutputEstimates
    ahead: RunPlan
    plan: Callable[[EngineConfig], RunPlan]

    def replan_for_pool(self, info: EngineInfo) -> None:
        """The engine is there. Where its pool came out smaller than was planned for, what was
        planned might not fit: the night is planned again."""
        if info.pool_tokens < self.config.pool_tokens:
            blocks = info.pool_tokens // self.config.block_size
            self.ahead = self.plan(replace(self.config, num_blocks=blocks))


def plan_engine(run: RunContext, store: Store, work: Sequence[PendingRequest]) -> EnginePlan:
    """Plans the night for the engine that this machine would give now."""
    spec = _engine_spec(run, work)
    _check_gpu(run, spec)
    config = expected_config(spec, run.facts)
    estimates = output_estimates(_history(run, store), run.jobs)
    order = run.manifest.engine.order
    known = speed_of(run.facts, config)

    def plan(config: EngineConfig) -> RunPlan:
        return build_run_plan(
            work,
            order,
            config=config,
            estimates=estimates,
            model=run.facts.work,
            known=known,
            time_left_s=run.stopping.time_left_s,
        )

    return EnginePlan(order, spec, config, estimates, plan(config), plan)


def sized_spec(spec: EngineSpec, facts: ModelInfo, work: Sequence[PendingRequest]) -> EngineSpec:
    """The engine's settings with what this night's requests need of the pool."""
    limits = facts.limits(spec)
    needed = sum(
        len(each.request.prompt_token_ids)
        + each.request.num_samples * each.request.sampling.max_tokens
        for each in work
    )
    largest = max((most_tokens(each, limits) for each in work), default=0)
    return replace(spec, needed_tokens=needed, longest_tokens=largest)


def expected_config(spec: EngineSpec, facts: ModelInfo) -> EngineConfig:
    """What an engine started now would resolve: it sizes its pool when the weights are loaded.

    Raises ModelError and EngineError as the engine would.
    """
    weights = facts.work.weight_bytes if facts.work is not None else 0
    free = free_bytes(resolve_device(spec.device))
    config = facts.engine_config(spec, max(0, free - weights))
    return replace(config, threads=num_threads())


def speed_of(facts: ModelInfo, config: EngineConfig) -> KnownSpeed | None:
    """What is known of how fast this machine runs the model."""
    if facts.work is None:
        return None
    return lookup_speed(
        facts.work,
        threads=config.threads,
        impl=config.impl,
        dtype=facts.dtype,
        device=config.device,
    )


def record_plan(store: Store, ahead: RunPlan) -> None:
    """Enters what was promised into the run's row, to be compared in the morning."""
    prediction = ahead.prediction
    store.update_run(
        {
            "planned_prompt_tokens": ahead.promised_tokens,
            "predicted_s": prediction.seconds if prediction else None,
        }
    )
    if prediction is not None:
        store.record_predictions({name: part.engine_s for name, part in prediction.jobs.items()})


def _check_gpu(run: RunContext, spec: EngineSpec) -> None:
    """Says who else has the GPU's memory; EngineError where too little is left."""
    if resolve_device(spec.device) == "cpu" or run.facts.work is None:
        return
    gpu, work = find_gpu(), run.facts.work
    assert gpu is not None
    # Rows that the pool turns out to be too small for fail one by one.
    block_bytes = spec.block_size * sum(group.kv_bytes_per_token for group in work.groups)
    least_bytes = work.weight_bytes + block_bytes
    if note := check_free_memory(gpu, least_bytes):
        run.observer.note(note)


def _engine_spec(run: RunContext, work: Sequence[PendingRequest]) -> EngineSpec:
    spec, model = sized_spec(run.spec, run.facts, work), run.facts.work
    spec = replace(spec, fingerprint=run.facts.fingerprint)
    if model is None or spec.needed_tokens is None:
        return spec
    seconds = 2 * model.body_parameters * spec.needed_tokens / _SLOW_FLOPS
    return replace(spec, measure_device=True, calibrate=seconds > _CALIBRATE_FROM_S)


def _history(run: RunContext, store: Store) -> dict[str, list[int]]:
    """Output tokens of earlier artifacts; an estimate is not worth a night that stops for it."""
    try:
        return store.past_outputs([job.name for job in run.jobs], run.facts.name)
    except StoreError:
        return {}
