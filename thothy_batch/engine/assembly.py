"""Builds an engine from its specification: model, pool, runner, rules."""

import os
import time
import traceback
from dataclasses import asdict, replace
from importlib import metadata
from typing import TYPE_CHECKING

from thothy_batch.engine.calibration import calibrate
from thothy_batch.engine.config import (
    EngineConfig,
    resolve_config,
)
from thothy_batch.engine.cost_model import CostModel, Speed, rows_at_rate
from thothy_batch.engine.fake import (
    FAKE_BYTES_PER_TOKEN,
    ByteTokenizer,
    FakeKnobs,
    FakeModelRunner,
    is_fake,
)
from thothy_batch.engine.launching import StepLauncher
from thothy_batch.engine.llm_engine import LLMEngine
from thothy_batch.engine.memory import num_cores
from thothy_batch.engine.prediction import known_speed
from thothy_batch.engine.speculation import Speculator
from thothy_batch.engine.speed import DeviceFigures, FigureCache
from thothy_batch.engine.stop_rules import StopRules
from thothy_batch.records import EngineInfo, EngineSpec

if TYPE_CHECKING:
    from thothy_batch.engine.loaded import LoadedRunner


_PACKAGES = {
    "cpu": ("thothy-batch", "torch", "numba", "numpy"),
    "cuda": ("thothy-batch", "torch", "triton", "numpy"),
}


def build_engine(spec: EngineSpec, *, owns_process: bool) -> tuple[LLMEngine, EngineInfo]:
    """Load, size, compile and warm up; returns an engine that is ready.

    `owns_process`: torch and the C library may be told how to use threads and memory. Raises
    ModelError for a model or setting that cannot be used, EngineError where memory does not
    suffice.
    """
    started_at = time.monotonic()
    build = _build_fake if is_fake(spec.model.id) else _build_real
    return build(spec, started_at, owns_process)


def _build_fake(
    spec: EngineSpec, started_at: float, owns_process: bool
) -> tuple[LLMEngine, EngineInfo]:
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
    info = _info(config, {"name": spec.model.id, "dtype": config.dtype}, started_at)
    rules = StopRules(tokenizer.stop_token_ids, tokenizer)
    engine = LLMEngine(
        config,
        StepLauncher(runner),
        rules,
        vocab_size=tokenizer.vocab_size,
        clock=time.monotonic,
    )
    return engine, info


def _build_real(
    spec: EngineSpec, started_at: float, owns_process: bool
) -> tuple[LLMEngine, EngineInfo]:
    # Late: torch takes a second to import, and the fake model does without.
    import torch

    from thothy_batch.engine.loaded import load_runner
    from thothy_batch.model.config import num_parameters
    from thothy_batch.model.fingerprint import check_fingerprint
    from thothy_batch.model.host_memory import keep_freed_memory

    if owns_process and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(num_cores())
    loaded = load_runner(spec)
    if owns_process:
        keep_freed_memory()
    model, config = loaded.model, loaded.config
    check_fingerprint(spec, model.files, model.config, model.dtype)
    cache = FigureCache()
    if spec.calibrate:
        _calibrate(loaded, cache)
    if config.bulk_tokens:
        config = _with_bulk(config, cache.load_speed(loaded.speed_key))
    figures = None
    if spec.measure_device:
        figures = _figures(cache, config.device, loaded.work.product_format(model.dtype))
    described: dict[str, object] = {
        "name": model.files.name,
        "commit": model.files.commit,
        "dtype": model.dtype,
        "quantization": model.quantization,
        "architecture": model.config.architecture,
        "num_parameters": num_parameters(model.config),
        "num_layers": model.config.num_layers,
        "vocab_size": model.config.vocab_size,
        "max_model_len": model.config.max_model_len,
        "random_weights": spec.model.random_weights,
    }
    info = replace(
        _info(config, described, started_at, figures), notes=(*cache.notes, *loaded.notes)
    )
    engine = LLMEngine(
        config,
        loaded.launcher,
        StopRules(model.stop_token_ids, model.tokenizer),
        vocab_size=model.config.vocab_size,
        has_tokenizer=model.tokenizer is not None,
        speculation=Speculator() if config.speculation else None,
        cost=_cost(loaded, cache),
    )
    return engine, info


def _cost(loaded: "LoadedRunner", cache: FigureCache) -> CostModel | None:
    """What is known beforehand of how long steps take."""
    key = loaded.speed_key
    known = known_speed(
        loaded.work,
        threads=key.threads,
        impl=key.impl,
        dtype=key.dtype,
        device=loaded.config.device,
        cache=cache,
    )
    return None if known is None else CostModel(loaded.work, known.speed)


def _with_bulk(config: EngineConfig, speed: Speed | None) -> EngineConfig:
    """Prompts are computed on a device as many at a time as its products need to be fast."""
    rows = 0 if speed is None else rows_at_rate(speed.linears)
    return replace(config, bulk_tokens=min(rows, config.max_step_tokens)) if rows else config


def _figures(cache: FigureCache, device: str, product_format: str) -> DeviceFigures | None:
    """What the device can do at most. No night fails for it, if its pool left no memory to
    measure in."""
    from thothy_batch.engine.device import device_figures

    try:
        return device_figures(cache, device, product_format)
    except Exception as error:
        cache.notes.append(f"the device's limits could not be measured: {error}"[:300])
        return None


def _calibrate(loaded: "LoadedRunner", cache: FigureCache) -> None:
    """How fast the device runs this model: measured once, then kept. No night fails for it."""
    key = loaded.speed_key
    if cache.load_speed(key) is not None:
        return
    try:
        cache.store_speed(key, calibrate(loaded.runner, loaded.config, loaded.work))
    except Exception as error:
        traceback.print_exc()
        cache.notes.append(f"the model's speed could not be measured: {error}")


def _info(
    config: EngineConfig,
    model: dict[str, object],
    started_at: float,
    figures: DeviceFigures | None = None,
) -> EngineInfo:
    device = {} if figures is None else {"device_figures": asdict(figures)}
    return EngineInfo(
        model=model,
        engine={**config.as_json(), **device},
        versions={name: _version(name) for name in _PACKAGES[config.device]},
        load_s=time.monotonic() - started_at,
        max_model_len=config.max_model_len,
        pool_tokens=config.pool_tokens,
    )


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""  # our own, run from a checkout
