"""Runs a workload through the engine in this process, planned as a run is; stores nothing."""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

from thothy_batch.bench.compute import Outcome, Progress, compute
from thothy_batch.bench.figures import BenchFigures
from thothy_batch.bench.machine import PeakMemory, commit, versions_of
from thothy_batch.bench.workload import Refusal
from thothy_batch.engine.builder import build_engine
from thothy_batch.engine.core import Limits, blocks_needed, rope_kinds, why_unfit
from thothy_batch.engine.cost import device_name, measured_now
from thothy_batch.engine.fake_model import ByteTokenizer, is_fake
from thothy_batch.engine.hardware import set_compute_environment
from thothy_batch.engine.llm_engine import LLMEngine
from thothy_batch.engine.model_info import ModelInfo
from thothy_batch.errors import ManifestError
from thothy_batch.model.config import locate_supported
from thothy_batch.plan import POLICIES, RequestPlan, chain_prompts, plan_requests
from thothy_batch.records import EngineInfo, EngineSpec, ModelSpec, Request
from thothy_batch.runner.planning import resolve_engine, size_pool
from thothy_batch.runner.work import RooflineReceipt

# Holds a device, given by name, for the length of a `with` block.
DeviceLock = Callable[[str], AbstractContextManager[None]]


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
    lock_device: DeviceLock = lambda device: nullcontext(),
) -> BenchFigures:
    """Load, plan, compute, count. The requests are those of `bench.workload` or made like them.

    `workload`, `refused`, `seed`: the origin of the requests, reported with the figures.
    `owns_process`: nothing else computes in it. Raises ManifestError and ModelError for what cannot
    be used, EngineError where the engine fails.
    """
    check_order(order)
    if owns_process:
        set_compute_environment()  # before torch is imported
    spec, model = resolve_engine(spec)
    with lock_device(spec.device):
        memory = PeakMemory(spec.device)
        progress("loading the model")
        engine, info = build_engine(
            _sized(spec, model, requests), owns_process=owns_process, phase=progress
        )
        fitting, unfit = _split_by_fit(requests, Limits.of(engine.config))
        progress(f"planning {len(fitting):,} requests")
        plan, plan_s = _timed_plan(fitting, order, engine)
        planned = plan.apply(fitting)
        outcome = compute(engine, planned, progress)
        outcome.refused[:0] = [*refused, *unfit]
        origin = _Origin(workload, order, seed)
        return _figures(_Run(origin, model, engine, info, plan, planned, plan_s, outcome), memory)


def check_order(order: str) -> None:
    """Raise ManifestError for an unknown order."""
    if order not in POLICIES:
        raise ManifestError(
            f"order {order!r} is not known", hint=f"use one of {', '.join(POLICIES)}"
        )


def vocabulary_of(model: ModelSpec) -> int:
    """The size of a model's vocabulary. Reads no weights. Raises ModelError."""
    if is_fake(model.id):
        return ByteTokenizer.vocab_size
    return locate_supported(model, need_weights=False)[1].vocab_size


def _sized(spec: EngineSpec, model: ModelInfo, requests: Sequence[Request]) -> EngineSpec:
    """The specification with the pool for these requests and the device's limits to be measured."""
    limits = model.limits(spec)
    fitting, _ = _split_by_fit(requests, limits)
    largest = max((blocks_needed(request, limits) for request in fitting), default=0)
    spec = size_pool(spec, fitting, largest * spec.block_size)
    return replace(spec, measure_device=model.work is not None)


def _split_by_fit(
    requests: Sequence[Request], limits: Limits
) -> tuple[list[Request], list[Refusal]]:
    fitting, unfit = [], []
    for request in requests:
        if why := why_unfit(request, limits):
            unfit.append(Refusal(request.request_key, why))
        else:
            fitting.append(request)
    return fitting, unfit


def _timed_plan(
    requests: Sequence[Request], order: str, engine: LLMEngine
) -> tuple[RequestPlan, float]:
    began, config = time.monotonic(), engine.config
    prompts = [request.prompt_token_ids for request in requests]
    kinds = rope_kinds(requests, config.short_rope_len)
    plan = plan_requests(
        requests,
        order,
        block_size=config.block_size,
        sharing=config.prefix_sharing,
        pool_tokens=config.pool_tokens,
        chains=chain_prompts(prompts, config.block_size, kinds),
    )
    return plan, time.monotonic() - began


@dataclass(frozen=True, slots=True)
class _Origin:
    """The origin and order of a workload's requests."""

    workload: str
    order: str
    seed: int


@dataclass(frozen=True, slots=True)
class _Run:
    """A workload that was computed, and the engine that computed it."""

    origin: _Origin
    model: ModelInfo
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
        workload=run.origin.workload,
        model=run.model.name,
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
        quantization=info.model.quantization,
        order=run.origin.order,
        seed=run.origin.seed,
        engine=info.engine.as_json(),
        versions={**info.versions, **versions_of(config.device)},
        notes=info.notes,
        commit=commit(),
        measured_at=measured_now(),
    )


def _roofline_s(run: _Run) -> float | None:
    """The roofline receipt of the finished requests, as a run counts it."""
    config = run.engine.config
    receipt = RooflineReceipt(run.model.work, run.info.engine.device_limits, config.block_size)
    for request in run.planned:
        if request.request_id in run.outcome.results:
            receipt.add(request.prompt_token_ids, run.outcome.results[request.request_id])
    return receipt.roofline_s(config.dtype)
