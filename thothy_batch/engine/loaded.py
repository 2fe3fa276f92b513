"""A model in memory with its pool and its runner: what an engine computes with."""

from dataclasses import dataclass

import torch

from thothy_batch.engine.config import EngineConfig, resolve_config, resolve_device, resolve_impl
from thothy_batch.engine.cost_model import ModelWork, model_work
from thothy_batch.engine.launching import Launcher, StepLauncher
from thothy_batch.engine.memory import available_bytes
from thothy_batch.engine.model_runner import ModelRunner
from thothy_batch.engine.sampler import Sampler
from thothy_batch.engine.speed import SpeedKey, device_name
from thothy_batch.model.config import kv_bytes_per_token, layer_groups
from thothy_batch.model.kv_pool import KVPool
from thothy_batch.model.loading import LoadedModel, load_decoder
from thothy_batch.records import EngineSpec


@dataclass(frozen=True, slots=True)
class LoadedRunner:
    """Warmed up and idle."""

    model: LoadedModel
    config: EngineConfig
    runner: ModelRunner

    @property
    def launcher(self) -> Launcher:
        return StepLauncher(self.runner)

    @property
    def work(self) -> ModelWork:
        return model_work(self.model.config, self.model.dtype)

    @property
    def speed_key(self) -> SpeedKey:
        """What a speed measured with this runner holds for."""
        config = self.config
        return SpeedKey(device_name(), config.threads, config.impl, config.dtype, self.work)


def load_runner(spec: EngineSpec) -> LoadedRunner:
    """Load the weights, size the pool from the memory that is left, compile and warm up.

    Raises ModelError for a model or setting that cannot be used, EngineError where memory does
    not suffice.
    """
    device = resolve_device(spec.device)
    model = load_decoder(spec.model, device=device, impl=resolve_impl(spec.impl, device))
    config = resolve_config(
        spec,
        dtype=model.dtype,
        max_model_len=model.config.max_model_len,
        bytes_per_token=kv_bytes_per_token(model.config, model.dtype),
        free_bytes=available_bytes(),
        layer_groups=layer_groups(model.config),
        threads=torch.get_num_threads(),
    )
    kv = KVPool.allocate(
        model.config, config.num_pages, config.block_size, model.dtype, device, impl=config.impl
    )
    runner = ModelRunner(model.decoder, kv, Sampler(config.impl), config.layout)
    runner.warm_up()
    return LoadedRunner(model, config, runner)
