"""Loads a model with its KV pool and its runner: everything that an engine computes with."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from thothy_batch.engine.core.config import EngineConfig, ops_impl, resolve_config
from thothy_batch.engine.cost.cost_model import ModelWork, model_work
from thothy_batch.engine.cost.measurement_cache import SpeedKey, device_name
from thothy_batch.engine.execution.cpu_kernels import prepare_kernels
from thothy_batch.engine.execution.cpu_runner import CPURunner
from thothy_batch.engine.execution.dummy_batches import DummyBatches
from thothy_batch.engine.execution.launcher import Launcher, Runner, SyncLauncher
from thothy_batch.engine.execution.memory_profile import free_after_warm_up, memory_named
from thothy_batch.engine.execution.sampler import Sampler
from thothy_batch.engine.hardware.host_memory import available_bytes
from thothy_batch.engine.protocol import OnPhase, ignore_phase
from thothy_batch.model import KVPool, LoadedModel, load_decoder
from thothy_batch.model.config import kv_bytes_per_token, layer_groups
from thothy_batch.records import EngineSpec

if TYPE_CHECKING:
    from thothy_batch.engine.execution.gpu_runner import GPURunner


@dataclass(frozen=True, slots=True)
class LoadedRunner:
    """A model and its runner, warmed up and idle."""

    model: LoadedModel
    config: EngineConfig
    runner: Runner
    launcher: Launcher  # the runner as an engine uses it
    notes: tuple[str, ...] = ()  # for the user, from the warm-up

    @property
    def work(self) -> ModelWork:
        return model_work(self.model.config, self.model.dtype, self.model.quantization)

    @property
    def speed_key(self) -> SpeedKey:
        """The conditions that a speed measured with this runner holds for."""
        config = self.config
        name = device_name(config.device)
        return SpeedKey(name, config.threads, config.impl, config.dtype, self.work)


def load_runner(spec: EngineSpec, phase: OnPhase = ignore_phase) -> LoadedRunner:
    """Load the weights, size the pool from the memory that is left, compile and warm up.

    `spec` is a result of `resolve_spec`; `phase` is told what it does. Raises ModelError for a
    model or setting that cannot be used, EngineError where memory does not suffice.
    """
    device, impl = spec.device, spec.impl
    prepare_kernels(spec, phase)
    phase("loading the weights")
    with memory_named("the weights"):
        model = load_decoder(
            spec.model,
            device=device,
            impl=ops_impl(impl, device),
            attention_impl="flex" if impl == "flex" else None,
        )

    def resolve(spec: EngineSpec, free_bytes: int) -> EngineConfig:
        return resolve_config(
            spec,
            dtype=model.dtype,
            max_model_len=model.config.max_model_len,
            bytes_per_token=kv_bytes_per_token(model.config, model.dtype),
            free_bytes=free_bytes,
            layer_groups=layer_groups(model.config),
            threads=torch.get_num_threads(),
            short_rope_len=model.config.short_rope_len,
        )

    if device == "cpu":
        free = available_bytes()
    else:
        with memory_named("the largest steps beside the weights"):
            free = free_after_warm_up(spec, resolve, lambda config: _gpu_runner(model, config))
    config = resolve(spec, free)
    phase("warming up")
    if device == "cpu" and model.decoder.impl != "triton":
        kv = _pool_of(model, config)
        runner = CPURunner(model.decoder, kv, Sampler(model.decoder.impl), config.layout)
        runner.warm_up()
        return LoadedRunner(model, config, runner, SyncLauncher(runner))
    phase("compiling GPU kernels and capturing graphs")
    with memory_named("the KV pool, the graphs of decode steps and the weights"):
        on_device = _gpu_runner(model, config)
        notes = on_device.warm_up(DummyBatches(config, 4 * config.block_size))
    return LoadedRunner(model, config, on_device, on_device, tuple(notes))


def _pool_of(model: LoadedModel, config: EngineConfig) -> KVPool:
    return KVPool.allocate(
        model.config,
        config.num_pages,
        config.block_size,
        model.dtype,
        config.device,
        impl=model.decoder.impl,
    )


def _gpu_runner(model: LoadedModel, config: EngineConfig) -> "GPURunner":
    # Late: it needs Triton, which does not exist for every machine without a GPU.
    from thothy_batch.engine.execution.gpu_runner import GPURunner

    kv = _pool_of(model, config)
    return GPURunner(model.decoder, kv, config.layout, max_seqs=config.max_seqs)
