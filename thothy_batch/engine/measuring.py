"""Measures how fast this machine runs one model: for `doctor`, and for the runs that follow it."""

from dataclasses import dataclass

import torch

from thothy_batch.engine.calibration import calibrate
from thothy_batch.engine.config import EngineConfig, resolve_config, resolve_device, resolve_impl
from thothy_batch.engine.cost_model import Speed, model_work
from thothy_batch.engine.memory import available_bytes
from thothy_batch.engine.model_runner import ModelRunner
from thothy_batch.engine.sampler import Sampler
from thothy_batch.engine.speed import SpeedKey, device_name
from thothy_batch.model.config import kv_bytes_per_token, layer_groups, num_parameters
from thothy_batch.model.kv_pool import KVPool
from thothy_batch.model.loading import LoadedModel, load_decoder
from thothy_batch.records import EngineSpec, LayerGroup


@dataclass(frozen=True, slots=True)
class MeasuredModel:
    """A model as it was measured; nothing of it is in memory any more."""

    name: str
    architecture: str
    num_parameters: int
    max_model_len: int
    layer_groups: tuple[LayerGroup, ...]
    key: SpeedKey  # what the speed holds for
    speed: Speed


def measure_model(spec: EngineSpec) -> MeasuredModel:
    """Load a model into this process, with a pool as large as the spec says, and calibrate it.

    Raises ModelError for a model or setting that cannot be used, EngineError where memory does
    not suffice.
    """
    device = resolve_device(spec.device)
    model = load_decoder(spec.model, device=device, impl=resolve_impl(spec.impl, device))
    config = _config(spec, model)
    kv = KVPool.allocate(
        model.config, config.num_pages, config.block_size, model.dtype, device, impl=config.impl
    )
    runner = ModelRunner(model.decoder, kv, Sampler(config.impl), config.layout)
    runner.warm_up()
    work = model_work(model.config, model.dtype)
    return MeasuredModel(
        name=model.files.name,
        architecture=model.config.architecture,
        num_parameters=num_parameters(model.config),
        max_model_len=config.max_model_len,
        layer_groups=config.layout.groups,
        key=SpeedKey(device_name(), config.threads, config.impl, config.dtype, work),
        speed=calibrate(runner, config, work),
    )


def _config(spec: EngineSpec, model: LoadedModel) -> EngineConfig:
    return resolve_config(
        spec,
        dtype=model.dtype,
        max_model_len=model.config.max_model_len,
        bytes_per_token=kv_bytes_per_token(model.config, model.dtype),
        free_bytes=available_bytes(),
        layer_groups=layer_groups(model.config),
        threads=torch.get_num_threads(),
    )
