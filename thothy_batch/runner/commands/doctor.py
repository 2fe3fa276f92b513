"""Diagnoses this machine: asks the system, and measures compute and bandwidth for a few seconds."""

import os
import platform
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, cast

from thothy_batch import __version__
from thothy_batch.choices import DTYPES, IMPLS, QUANTIZATIONS
from thothy_batch.engine.core import ops_impl, resolve_impl, resolve_spec
from thothy_batch.engine.cost import MeasurementCache, StepSpeed, capacity_table
from thothy_batch.engine.hardware import (
    available_bytes,
    cpu_name,
    find_gpu,
    is_quiet,
    num_cores,
    num_threads,
    set_compute_environment,
)
from thothy_batch.engine.model_info import check_small_files
from thothy_batch.errors import ManifestError, ModelError
from thothy_batch.logs import collected_warnings
from thothy_batch.records import DeviceLimits, EngineSpec, ModelSpec
from thothy_batch.runner.commands.doctor_document import (
    CapacityRow,
    DoctorDocument,
    GpuDocument,
    LinearRate,
    MeasuredModelDocument,
    SpeedDocument,
)
from thothy_batch.runner.monitoring.progress import Observer
from thothy_batch.testing import faults

if TYPE_CHECKING:
    from thothy_batch.engine.calibration import MeasuredModel

_PACKAGES = ("torch", "triton", "numba", "numpy", "duckdb", "pyarrow", "tokenizers", "transformers")
_GIB = 1 << 30
# Twice the most that calibration reads.
_KV_MEMORY = _GIB
_CONTEXTS = (1024, 3072, 8192, 32_768)
_ROWS = (1, 8, 32, 128, 512)  # a choice of the row counts at which calibration measures linears


def diagnose(
    observer: Observer, model: ModelSpec | None = None, *, owns_process: bool
) -> DoctorDocument:
    """Measures the device, and `model` where one is given. Keeps the figures for later runs.

    `owns_process`: nothing else computes in this process. Raises ModelError for a model that
    cannot be used.
    """
    if model is not None:
        check_small_files(model)  # before torch, which takes seconds, is imported
    if owns_process:
        match_engine_process()
    # Imported late: torch takes more than a second.
    import torch

    from thothy_batch.engine.calibration import measure_device

    with collected_warnings() as notes:
        cache = MeasurementCache()
        measured = None if model is None else _measure(model, cache, observer)
        observer.phase("measuring the device, about 5 s")
        faults.at("doctor.measure")
        resolved = resolve_spec(EngineSpec())
        device = resolved.device
        figures = measure_device(cache, device)
    if measured is not None:
        notes += measured.notes
    impls, warnings = _usable_impls(device)
    return {
        "device": device,
        "cuda": torch.cuda.is_available(),
        "gpu": _gpu_json(),
        "impls": impls,
        "auto_impl": resolved.impl,
        "cpu_name": cpu_name(),
        "cores": num_cores(),
        "threads": figures.threads,
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _GIB, 2),
        "memory_free_gib": round(available_bytes() / _GIB, 2),
        "gflops": {name: round(flops / 1e9, 1) for name, flops in figures.flops.items()},
        "bandwidth_gb_s": round(figures.bandwidth / 1e9, 2),
        "measured_at": figures.measured_at,
        "load": figures.load,
        "limits_of_runs_at": _limits_of_runs_at(cache, figures),
        "model": None if measured is None else _model_json(measured),
        "versions": _versions(),
        "notes": notes,
        "warnings": warnings,
    }


def _limits_of_runs_at(cache: MeasurementCache, figures: DeviceLimits) -> str | None:
    """When the limits that runs compute with were measured; None where there are none."""
    if is_quiet(figures.load):
        return figures.measured_at
    quiet = cache.quiet_device(figures.device, figures.threads)
    return None if quiet is None else quiet.measured_at


def match_engine_process() -> None:
    """Gives this process what the engine's own process starts with; before torch is imported."""
    set_compute_environment()
    import torch

    from thothy_batch.model import keep_freed_memory

    torch.set_num_threads(num_threads())
    keep_freed_memory()


def model_to_measure(
    model_id: str | None,
    dtype: str | None,
    quantization: str | None = None,
    *,
    random_weights: bool,
) -> ModelSpec | None:
    """The model that the options of `doctor` name. Raises ManifestError (bad usage)."""
    if model_id is None:
        options = {
            "--dtype": dtype is not None,
            "--quantization": quantization is not None,
            "--random-weights": random_weights,
        }
        for option in (name for name, is_given in options.items() if is_given):
            raise ManifestError(
                f"{option} needs --model: without it no model is measured",
                hint="add --model with a hub id or a directory",
            )
        return None
    checked = known_dtype("auto" if dtype is None else dtype)
    if quantization not in (None, *QUANTIZATIONS):
        raise ManifestError(
            f"--quantization {quantization}: unknown", hint=f"use {', '.join(QUANTIZATIONS)}"
        )
    return ModelSpec(
        id=model_id,
        dtype=checked,
        quantization=quantization or "none",
        random_weights=random_weights,
    )


def known_dtype(dtype: str) -> str:
    """Returns the value of `--dtype`. Raises ManifestError where it is unknown (bad usage)."""
    if dtype not in DTYPES:
        raise ManifestError(f"--dtype {dtype}: unknown", hint=f"use {', '.join(DTYPES)}")
    return dtype


def _measure(model: ModelSpec, cache: MeasurementCache, observer: Observer) -> "MeasuredModel":
    """Calibrates the cost model of later runs, and frees the model again."""
    from thothy_batch.engine.calibration import measure_model

    spec = resolve_spec(EngineSpec(model=model, kv_memory=_KV_MEMORY))
    measured = measure_model(spec, observer.phase)
    cache.store_speed(measured.key, measured.speed)
    return measured


def _model_json(measured: "MeasuredModel") -> MeasuredModelDocument:
    key, speed = measured.key, measured.speed
    return {
        "name": measured.name,
        "architecture": measured.architecture,
        "num_parameters": measured.num_parameters,
        "max_model_len": measured.max_model_len,
        "dtype": key.dtype,
        "quantization": key.work.quantization,
        "impl": key.impl,
        "threads": key.threads,
        "linears": _linear_rates(speed),
        "kv_gb_s": round(1e-9 / speed.kv_byte_s, 2) if speed.kv_byte_s else None,
        "host_step_s": speed.step_s,
        "host_row_s": speed.row_s,
        "layer_groups": [
            {"num_layers": len(group.layers), "window": group.window}
            for group in measured.layer_groups
        ],
        "capacity": _capacity(measured),
        "speed": cast(SpeedDocument, asdict(speed)),
    }


def _linear_rates(speed: StepSpeed) -> list[LinearRate]:
    return [
        {"rows": int(rows), "tokens_per_s": round(rows / seconds, 1)}
        for rows, seconds in speed.linears
        if rows in _ROWS and seconds
    ]


def _capacity(measured: "MeasuredModel") -> list[CapacityRow]:
    if all(group.window is None for group in measured.layer_groups):
        return []
    contexts = [length for length in _CONTEXTS if length <= measured.max_model_len]
    return [
        {"context": row.context, "gain": round(row.gain, 3)}
        for row in capacity_table(measured.layer_groups, contexts)
    ]


def _gpu_json() -> GpuDocument | None:
    """The GPU as its driver describes it; None where none can be used."""
    gpu = find_gpu()
    if gpu is None:
        return None
    return {
        "name": gpu.name,
        "driver": gpu.driver,
        "capability": gpu.capability,
        "memory_gib": round(gpu.total_bytes / _GIB, 2),
        "memory_free_gib": round(gpu.free_bytes / _GIB, 2),
    }


def _usable_impls(device: str) -> tuple[list[str], list[str]]:
    """The implementations that work on a device, tried on a small linear and attention, and a
    warning for each that should work and does not."""
    usable, warnings = [], []
    for impl in IMPLS:
        try:
            resolve_impl(impl, device)
        except ModelError:
            continue  # not made for this device
        try:
            _smoke_test(impl, device)
            usable.append(impl)
        except Exception as error:  # any failure is what the user wants to see
            warnings.append(f"impl {impl} does not work here: {type(error).__name__}: {error}")
    return usable, warnings


def _smoke_test(impl: str, device: str) -> None:
    """Runs one linear and one attention; raises where the implementation fails."""
    import torch

    from thothy_kernels.linear import pack_linear
    from thothy_kernels.paged_attention import AttentionMetadata, paged_attention

    linear = pack_linear(torch.ones(8, 8, device=device), None, impl=ops_impl(impl, device))
    linear(torch.ones(1, 8, device=device))
    one = torch.ones(1, dtype=torch.int32)
    host = AttentionMetadata(torch.tensor([0, 1], dtype=torch.int32), one, one[None] - 1, 1)
    there = AttentionMetadata(
        host.cu_seqlens.to(device), one.to(device), host.block_tables.to(device), 1, host=host
    )
    q, block = torch.ones(1, 2, 16, device=device), torch.ones(1, 1, 16, 16, device=device)
    paged_attention(q, block, block, there, scale=1.0, impl=impl)


def _versions() -> dict[str, str]:
    found = {"thothy-batch": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
