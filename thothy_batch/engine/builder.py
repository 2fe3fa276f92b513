"""Builds an engine from its specification: model, KV pool, runner, stop rules."""

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import fields, replace
from importlib import metadata
from typing import TYPE_CHECKING

from thothy_batch import __version__
from thothy_batch.engine.calibration.calibrate import calibrate
from thothy_batch.engine.core.config import EngineConfig, resolve_config, resolve_spec
from thothy_batch.engine.cost.cost_model import CostModel, StepSpeed, rows_at_rate
from thothy_batch.engine.cost.known_speed import lookup_speed
from thothy_batch.engine.cost.measurement_cache import MeasurementCache
from thothy_batch.engine.execution.launcher import SyncLauncher
from thothy_batch.engine.fake_model import (
    FAKE_BYTES_PER_TOKEN,
    ByteTokenizer,
    FakeKnobs,
    FakeModelRunner,
    is_fake,
)
from thothy_batch.engine.hardware.cpu import num_cores
from thothy_batch.engine.hardware.cpu_load import is_quiet, present_load
from thothy_batch.engine.llm_engine import LLMEngine
from thothy_batch.engine.output.stop_checker import StopChecker
from thothy_batch.engine.protocol import OnPhase, ignore_phase
from thothy_batch.engine.speculative.policy import SpeculationPolicy
from thothy_batch.logs import collected_warnings
from thothy_batch.records import (
    DeviceLimits,
    EngineInfo,
    EngineSpec,
    ResolvedEngine,
    ResolvedModel,
)

if TYPE_CHECKING:
    from thothy_batch.engine.model_loader import LoadedRunner


_log = logging.getLogger(__name__)
_PACKAGES = {
    "cpu": ("torch", "numba", "numpy"),
    "cuda": ("torch", "triton", "numpy"),
}


def build_engine(
    spec: EngineSpec, *, owns_process: bool, phase: OnPhase = ignore_phase
) -> tuple[LLMEngine, EngineInfo]:
    """Load, size, compile and warm up an engine.

    `owns_process`: the thread and memory settings of torch and the C library may be changed.
    `phase` is told what is done, and how far it is. Raises ModelError for a model or setting that
    cannot be used, EngineError where memory is short.
    """
    started_at = time.monotonic()
    with collected_warnings() as warnings:
        if is_fake(spec.model.id):
            engine, info = _build_fake(resolve_spec(spec), started_at)
        else:
            engine, info = _build_real(resolve_spec(spec), started_at, owns_process, phase)
    return engine, replace(info, notes=(*warnings, *info.notes))


def _build_fake(spec: EngineSpec, started_at: float) -> tuple[LLMEngine, EngineInfo]:
    knobs = FakeKnobs.of(spec.model.id)
    time.sleep(knobs.load_ms / 1000)
    config = resolve_config(
        spec,
        dtype="float32",
        max_model_len=knobs.context,
        bytes_per_token=FAKE_BYTES_PER_TOKEN,
        free_bytes=FAKE_BYTES_PER_TOKEN * (1 << 20),  # the pool is bookkeeping alone
    )
    tokenizer = ByteTokenizer()
    runner = FakeModelRunner(knobs, config.num_blocks, config.block_size)
    info = _info(config, ResolvedModel(spec.model.id, None, config.dtype), started_at)
    stop_checker = StopChecker(tokenizer.stop_token_ids, tokenizer)
    engine = LLMEngine(
        config,
        SyncLauncher(runner),
        stop_checker,
        vocab_size=tokenizer.vocab_size,
        clock=time.monotonic,  # looked up now, so that tests can replace it
    )
    return engine, info


def _build_real(
    spec: EngineSpec, started_at: float, owns_process: bool, phase: OnPhase
) -> tuple[LLMEngine, EngineInfo]:
    # Late: torch takes a second to import, and the fake model does not need it.
    import torch

    from thothy_batch.engine.model_loader import load_runner
    from thothy_batch.model import check_fingerprint, keep_freed_memory
    from thothy_batch.model.config import num_parameters

    if owns_process and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(num_cores())
    loaded = load_runner(spec, phase)
    if owns_process:
        keep_freed_memory()
    model, config = loaded.model, loaded.config
    check_fingerprint(spec, model.files, model.config, model.dtype)
    cache = MeasurementCache()
    if spec.calibrate:
        _calibrate(loaded, cache, phase)
    if config.bulk_tokens:
        config = _with_bulk(config, cache.quiet_speed(loaded.speed_key))
    limits = None
    if spec.measure_device:
        formats = (loaded.work.product_format(model.dtype), model.dtype)
        limits = _limits(cache, config.device, formats, phase)
    resolved = ResolvedModel(
        name=model.files.name,
        commit=model.files.commit,
        dtype=model.dtype,
        quantization=model.quantization,
        architecture=model.config.architecture,
        num_parameters=num_parameters(model.config),
        num_layers=model.config.num_layers,
        vocab_size=model.config.vocab_size,
        max_model_len=model.config.max_model_len,
        random_weights=spec.model.random_weights,
    )
    info = replace(_info(config, resolved, started_at, limits), notes=loaded.notes)
    engine = LLMEngine(
        config,
        loaded.launcher,
        StopChecker(model.stop_token_ids, model.tokenizer),
        vocab_size=model.config.vocab_size,
        has_tokenizer=model.tokenizer is not None,
        speculation=SpeculationPolicy() if config.speculation else None,
        cost=_cost(loaded, cache),
    )
    return engine, info


def _cost(loaded: "LoadedRunner", cache: MeasurementCache) -> CostModel | None:
    """The cost model, where the speed of steps is known beforehand."""
    key = loaded.speed_key
    known = lookup_speed(
        loaded.work,
        threads=key.threads,
        impl=key.impl,
        dtype=key.dtype,
        device=loaded.config.device,
        cache=cache,
    )
    return None if known is None else CostModel(loaded.work, known.speed)


def _with_bulk(config: EngineConfig, speed: StepSpeed | None) -> EngineConfig:
    """Prefill as many prompt tokens at a time as the device's products need to be fast."""
    rows = 0 if speed is None else rows_at_rate(speed.linears)
    return replace(config, bulk_tokens=min(rows, config.max_step_tokens)) if rows else config


def _limits(
    cache: MeasurementCache, device: str, formats: Sequence[str], phase: OnPhase
) -> DeviceLimits | None:
    """The device's limits; None where they cannot be measured, as when the pool left no memory
    for it or other programs compute: no run fails for that."""
    from thothy_batch.engine.calibration.device_limits import load_or_measure_limits

    try:
        return load_or_measure_limits(cache, device, formats, phase)
    except Exception as error:
        said = str(error)[:250]
        _log.warning("the device's limits could not be measured: %s", said, exc_info=True)
        return None


def _calibrate(loaded: "LoadedRunner", cache: MeasurementCache, phase: OnPhase) -> None:
    """Measure the model's speed and cache it, where it is not known and the machine is quiet. No
    run fails for that."""
    key = loaded.speed_key
    if cache.quiet_speed(key) is not None:
        return
    if loaded.config.device == "cpu" and not is_quiet(load := present_load()):
        _log.info("the model's speed is not measured: others use %s of the cores", load)
        return
    phase("measuring the speed of the model, about 20 s")
    try:
        cache.store_speed(key, calibrate(loaded.runner, loaded.config, loaded.work))
    except Exception as error:
        _log.warning("the model's speed could not be measured: %s", error, exc_info=True)


def _info(
    config: EngineConfig,
    model: ResolvedModel,
    started_at: float,
    limits: DeviceLimits | None = None,
) -> EngineInfo:
    return EngineInfo(
        model=model,
        engine=_resolved(config, limits),
        versions={
            "thothy-batch": __version__,
            **{name: _version(name) for name in _PACKAGES[config.device]},
        },
        load_s=time.monotonic() - started_at,
    )


def _resolved(config: EngineConfig, limits: DeviceLimits | None) -> ResolvedEngine:
    same = [each.name for each in fields(ResolvedEngine) if hasattr(config, each.name)]
    return ResolvedEngine(
        **{name: getattr(config, name) for name in same},
        layer_groups=config.layout.groups,
        device_limits=limits,
    )


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""  # built by hand, or packed under another name
