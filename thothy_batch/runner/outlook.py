"""What a run knows of its night before the first token: engine settings, order, predicted time."""

from dataclasses import replace

from thothy_batch.engine.config import EngineConfig
from thothy_batch.engine.facts import ModelFacts
from thothy_batch.engine.prediction import KnownSpeed, known_speed
from thothy_batch.plan import OutputEstimates, night_stats
from thothy_batch.records import EngineInfo, EngineSpec
from thothy_batch.runner.assignment import Assignment
from thothy_batch.runner.forethought import (
    Forethought,
    most_tokens,
    output_estimates,
    think_ahead,
)
from thothy_batch.runner.opening import Setup
from thothy_batch.store.store import Store

# A night that takes this long at least is worth the seconds of calibrating.
_CALIBRATE_FROM_S = 300.0
_SLOW_FLOPS = 2e11  # of a device of which nothing is known


def sized_spec(spec: EngineSpec, facts: ModelFacts, assignment: Assignment) -> EngineSpec:
    """The engine's settings with what this night's requests need of the pool."""
    requests = [work.request for work in assignment.work]
    stats = night_stats(requests, block_size=spec.block_size)
    limits = facts.limits(spec)
    largest = max((most_tokens(work, limits) for work in assignment.work), default=0)
    return replace(spec, needed_tokens=stats.needed_tokens, longest_tokens=largest)


def engine_spec(run: Setup, assignment: Assignment) -> EngineSpec:
    """What the engine is started with."""
    spec = sized_spec(run.spec, run.facts, assignment)
    work = run.facts.work
    if work is None or spec.needed_tokens is None:
        return spec
    seconds = 2 * work.body_parameters * spec.needed_tokens / _SLOW_FLOPS
    return replace(spec, measure_device=True, calibrate=seconds > _CALIBRATE_FROM_S)


def foresee(
    run: Setup, store: Store, assignment: Assignment, info: EngineInfo
) -> tuple[OutputEstimates, Forethought]:
    """The plan for the engine that was started."""
    config = started_config(run, info)
    history = store.past_outputs([job.name for job in run.jobs], run.facts.name)
    estimates = output_estimates(history, run.jobs)
    ahead = think_ahead(
        assignment.work,
        run.manifest.engine.order,
        config=config,
        estimates=estimates,
        model=run.facts.work,
        known=speed_of(run.facts, config),
        time_left_s=run.stopping.time_left_s,
    )
    return estimates, ahead


def started_config(run: Setup, info: EngineInfo) -> EngineConfig:
    """The settings as the engine resolved them."""
    found = info.engine
    spec = replace(
        run.spec,
        num_blocks=_int(found["num_blocks"]),
        max_seqs=_int(found["max_seqs"]),
        max_step_tokens=_int(found["max_step_tokens"]),
    )
    config = run.facts.engine_config(spec, free_bytes=0)
    return replace(config, threads=_int(found["threads"]), max_model_len=info.max_model_len)


def speed_of(facts: ModelFacts, config: EngineConfig) -> KnownSpeed | None:
    """What is known of how fast this machine runs the model."""
    if facts.work is None:
        return None
    return known_speed(facts.work, threads=config.threads, impl=config.impl, dtype=facts.dtype)


def record_plan(store: Store, ahead: Forethought) -> None:
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


def _int(value: object) -> int:
    assert isinstance(value, int)
    return value
