"""Prepares a machine for runs of a model: compiles its kernels and measures the device."""

import time
from dataclasses import dataclass

from thothy_batch.engine.calibration.device_limits import load_or_measure_limits
from thothy_batch.engine.cost.cost_model import model_work
from thothy_batch.engine.cost.measurement_cache import MeasurementCache
from thothy_batch.engine.execution.cpu_kernels import prepare_kernels
from thothy_batch.engine.protocol import OnPhase
from thothy_batch.model.config import locate_supported, resolve_dtype
from thothy_batch.records import EngineSpec


@dataclass(frozen=True, slots=True)
class Preparation:
    """The work that was done for runs of a model."""

    model: str
    num_compiled: int  # kernels; 0: all were there, or the device needs none
    compile_s: float
    has_limits: bool  # of the device, measured while nothing else used it


def prepare_machine(spec: EngineSpec, phase: OnPhase) -> Preparation:
    """Compile what is not compiled yet, and measure what is not known yet.

    `spec` is a result of `resolve_spec`. Reads no weights. Raises ModelError.
    """
    began = time.monotonic()
    num_compiled = prepare_kernels(spec, phase)
    compile_s = time.monotonic() - began
    files, config = locate_supported(spec.model, need_weights=False)
    dtype = resolve_dtype(config, spec.model, spec.device)
    work = model_work(config, dtype, spec.model.quantization)
    formats = (work.product_format(dtype), dtype)
    limits = load_or_measure_limits(MeasurementCache(), spec.device, formats, phase)
    return Preparation(files.name, num_compiled, compile_s, limits is not None)
