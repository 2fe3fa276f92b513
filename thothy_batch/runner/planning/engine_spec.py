"""The engine specification of a run: device resolved, pool sized, model described.

Imports neither the manifest nor the store, so that `bench` can use it on a machine without them.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace

from thothy_batch.engine.core import EngineConfig, resolve_spec
from thothy_batch.engine.cost import KnownSpeed, lookup_speed
from thothy_batch.engine.hardware import check_free_memory, find_gpu, free_bytes, num_threads
from thothy_batch.engine.model_info import ModelInfo, model_info
from thothy_batch.records import EngineSpec, Request

# Calibration takes seconds: it pays in a run of at least this length.
_CALIBRATE_FROM_S = 300.0
_SLOW_FLOPS = 2e11  # assumed for a device that was never measured


def resolve_engine(spec: EngineSpec, *, need_weights: bool = True) -> tuple[EngineSpec, ModelInfo]:
    """Resolve device and implementation for this machine and describe the model.

    Raises ModelError for a device, an implementation or a model that cannot be used. Without
    `need_weights` only the small files of a hub model are downloaded.
    """
    resolved = resolve_spec(spec)
    return resolved, model_info(resolved, need_weights=need_weights)


def size_pool(spec: EngineSpec, requests: Iterable[Request], longest_tokens: int) -> EngineSpec:
    """Add what these requests need of the KV pool.

    `longest_tokens`: the most KV that one request may hold, in tokens of whole blocks.
    """
    needed = sum(
        len(request.prompt_token_ids) + request.num_samples * request.sampling.max_tokens
        for request in requests
    )
    return replace(spec, needed_tokens=needed, longest_tokens=longest_tokens)


def request_measurements(spec: EngineSpec, model: ModelInfo) -> EngineSpec:
    """Ask the engine for the device's limits, and for calibration where the run is long enough."""
    if model.work is None or spec.needed_tokens is None:
        return spec
    seconds = 2 * model.work.body_parameters * spec.needed_tokens / _SLOW_FLOPS
    return replace(spec, measure_device=True, calibrate=seconds > _CALIBRATE_FROM_S)


def expected_config(spec: EngineSpec, model: ModelInfo) -> EngineConfig:
    """The settings that an engine started now would resolve when its weights are loaded.

    Raises ModelError and EngineError as the engine would.
    """
    weights = model.work.weight_bytes if model.work is not None else 0
    config = model.engine_config(spec, max(0, free_bytes(spec.device) - weights))
    return replace(config, threads=num_threads())


def expected_speed(config: EngineConfig, model: ModelInfo) -> KnownSpeed | None:
    """The model's speed on this machine, measured or derived from the device; None: not known."""
    if model.work is None:
        return None
    return lookup_speed(
        model.work,
        threads=config.threads,
        impl=config.impl,
        dtype=model.dtype,
        device=config.device,
    )


def check_gpu_memory(spec: EngineSpec, model: ModelInfo, note: Callable[[str], None]) -> None:
    """Note the other processes that hold GPU memory. EngineError where too little is left."""
    if spec.device == "cpu" or model.work is None:
        return
    gpu = find_gpu()
    assert gpu is not None
    # The least is one block: requests that the pool turns out to be too small for fail one by one.
    block_bytes = spec.block_size * sum(group.kv_bytes_per_token for group in model.work.groups)
    if text := check_free_memory(gpu, model.work.weight_bytes + block_bytes):
        note(text)
