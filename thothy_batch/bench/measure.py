"""Runs a workload through the engine in this process: planned as a night is, but nothing stored."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from thothy_batch.bench.compute import Outcome, Progress, compute
from thothy_batch.bench.figures import BenchFigures
from thothy_batch.bench.machine import PeakMemory, commit, versions_of
from thothy_batch.bench.workload import Refusal
from thothy_batch.engine.builder import build_engine
from thothy_batch.engine.core.config import EngineConfig, resolve_device
from thothy_batch.engine.core.limits import Limits, blocks_needed, why_unfit
from thothy_batch.engine.cost.measurement_cache import device_name, measured_now
from thothy_batch.engine.fake_model import ByteTokenizer, is_fake
from thothy_batch.engine.hardware.environment import set_compute_environment
from thothy_batch.engine.llm_engine import LLMEngine
from thothy_batch.engine.model_info import ModelInfo, model_info
from thothy_batch.errors import ManifestError
from thothy_batch.model.checkpoint.locate import locate_model
from thothy_batch.model.config.model_config import load_config
from thothy_batch.plan import POLICIES, RequestPlan, plan_requests
from thothy_batch.records import EngineInfo, EngineSpec, ModelSpec, Request
from thothy_batch.runner.work.roofline_receipt import RooflineReceipt


def run_bench(
    spec: EngineSpec,
    requests: Sequence[Request],
    *,
    workload: str = "",
    refused: Sequence[Refusal] = (),
    order: str = "auto",
    seed: int = 0,
    progress: Progress = lambda text: None,
    owns_process: bool = False,
) -> BenchFigures:
    """Load, plan, compute, count. The requests are those of `bench.workload` or made like them.

    `workload`, `refused`, `seed`: how they were made, to be told with the figures. `owns_process`:
    nobody else computes in it. Raises ManifestError and ModelError for what cannot be used,
    EngineError where the engine fails.
    """
    check_order(order)
    if owns_process:
        set_compute_environment()
    facts = model_info(spec)
    memory = PeakMemory(resolve_device(spec.device))
    progress("loading the model")
    engine, info = build_engine(_sized(spec, facts, requests), owns_process=owns_process)
    fitting, unfit = _fitting(requests, Limits.of(engine.config))
    progress(f"planning {len(fitting):,} requests")
    began = time.monotonic()
    plan = _plan(fitting, order, engine.config)
    planned = plan.apply(fitting)
    plan_s = time.monotonic() - began
    outcome = compute(engine, planned, progress)
    outcome.refused[:0] = [*refused, *unfit]
    run = _Run(workload, order, seed, facts, engine, info, plan, planned, plan_s, outcome)
    return _figures(run, memory)


def check_order(order: str) -> None:
    """Raises ManifestError for one that is not known."""
    if order not in POLICIES:
        raise ManifestError(
            f"order {order!r} is not known", hint=f"use one of {', '.join(POLICIES)}"
        )


def vocabulary_of(model: ModelSpec) -> int:
    """How many tokens a model knows. Reads no weights; ModelError where it cannot be used."""
    if is_fake(model.id):
        return ByteTokenizer.vocab_size
    return load_config(locate_model(model, need_weights=False).directory).vocab_size


def _sized(spec: EngineSpec, facts: ModelInfo, requests: Sequence[Request]) -> EngineSpec:
    """The settings with what the requests need of the pool, and the device's limits asked for."""
    limits = facts.limits(spec)
    fitting, _ = _fitting(requests, limits)
    needed = sum(len(r.prompt_token_ids) + r.sampling.max_tokens for r in fitting)
    largest = max((blocks_needed(r, limits) for r in fitting), default=0)
    return replace(
        spec,
        needed_tokens=needed,
        longest_tokens=largest * spec.block_size,
        measure_device=facts.work is not None,
    )


def _fitting(requests: Sequence[Request], limits: Limits) -> tuple[list[Request], list[Refusal]]:
    fitting, unfit = [], []
    for request in requests:
        if why := why_unfit(request, limits):
            unfit.append(Refusal(request.request_key, why))
        else:
            fitting.append(request)
    return fitting, unfit


@dataclass(frozen=True, slots=True)
class _Run:
    """A workload that was computed, and by what."""

    workload: str
    order: str
    seed: int
    facts: ModelInfo
    engine: LLMEngine
    info: EngineInfo
    plan: RequestPlan
    planned: Sequence[Request]
    plan_s: float
    outcome: Outcome


def _figures(run: _Run, memory: PeakMemory) -> BenchFigures:
    config, info, outcome = run.engine.config, run.info, run.outcome
    totals, results = run.engine.totals, outcome.results.values()
    return BenchFigures(
        workload=run.workload,
        model=run.facts.name,
        num_done=len(results),
        refused=tuple(outcome.refused),
        prompt_tokens=sum(result.prompt_tokens for result in results),
        cached_prompt_tokens=totals.cached_prompt_tokens,
        prefill_tokens=totals.prefill_tokens,
        planned_prompt_tokens=run.plan.computed_prompt_tokens,
        output_tokens=outcome.output_tokens,
        wasted_tokens=totals.wasted_tokens,
        drafted_tokens=totals.drafted_tokens,
        accepted_tokens=totals.accepted_tokens,
        num_preempted=totals.num_preempted,
        num_steps=totals.num_steps,
        load_s=info.load_s,
        plan_s=run.plan_s,
        engine_s=outcome.engine_s,
        roofline_s=_roofline_s(run),
        busy_fraction=outcome.busy_fraction,
        peak_memory_bytes=memory.num_bytes(),
        device=config.device,
        device_name=device_name(config.device),
        impl=config.impl,
        dtype=config.dtype,
        quantization=str(info.model.get("quantization", "none")),
        order=run.order,
        seed=run.seed,
        engine=info.engine.as_json(),
        versions={**info.versions, **versions_of(config.device)},
        notes=info.notes,
        commit=commit(),
        measured_at=measured_now(),
    )


def _plan(requests: Sequence[Request], order: str, config: EngineConfig) -> RequestPlan:
    return plan_requests(
        requests,
        order,
        block_size=config.block_size,
        sharing=config.prefix_sharing,
        pool_tokens=config.pool_tokens,
    )


def _roofline_s(run: _Run) -> float | None:
    """As a run counts it: the receipt of what finished."""
    config = run.engine.config
    receipt = RooflineReceipt(run.facts.work, run.info.engine.device_limits, config.block_size)
    for request in run.planned:
        if request.request_id in run.outcome.results:
            receipt.add(request.prompt_token_ids, run.outcome.results[request.request_id])
    return receipt.roofline_s(config.dtype)
