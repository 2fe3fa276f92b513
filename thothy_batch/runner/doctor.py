"""What this machine can do: found out by asking and, for a few seconds, by measuring."""

import os
import platform
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thothy_batch import __version__, faults
from thothy_batch.engine.capacity import capacity_table
from thothy_batch.engine.config import IMPLS, ops_impl, resolve_device, resolve_impl
from thothy_batch.engine.cost_model import Speed
from thothy_batch.engine.gpu import find_gpu
from thothy_batch.engine.memory import available_bytes, num_cores, num_threads
from thothy_batch.engine.speed import FigureCache
from thothy_batch.errors import ManifestError, ModelError
from thothy_batch.model.quantization import QUANTIZATIONS
from thothy_batch.records import EngineSpec, ModelSpec
from thothy_batch.runner.progress import Observer

if TYPE_CHECKING:
    from thothy_batch.engine.measuring import MeasuredModel

_PACKAGES = ("torch", "triton", "numba", "numpy", "duckdb", "pyarrow", "tokenizers", "transformers")
_DTYPES = ("auto", "float32", "bfloat16")
_GIB = 1 << 30
# Twice what calibration reads at most.
_KV_MEMORY = _GIB
_CONTEXTS = (1024, 3072, 8192, 32_768)
_ROWS = (1, 8, 32, 128, 512)  # of those that calibration measures linears at


def examine(
    observer: Observer, model: ModelSpec | None = None, *, owns_process: bool
) -> dict[str, Any]:
    """Keys: device, gpu (null, or what its driver says), impls, versions, cores, memory, gflops
    (float32, bfloat16, on a CPU int8), bandwidth_gb_s, model (null, or what `model` was measured
    at), notes, warnings.

    gflops: 1e9 operations a second of the fastest linear; bandwidth: 1e9 bytes a second, reading
    (a GPU: reading and writing, of a copy). What is measured is kept for later runs.
    `owns_process`: nobody else computes in it. Raises ModelError for a model that cannot be used.
    """
    if owns_process:
        _compute_as_runs_do()
    # Late: torch takes more than a second to import, and no other command of this side needs it.
    import torch

    from thothy_batch.engine.device import measure_device

    cache = FigureCache()
    measured = None if model is None else _measure(model, cache, observer)
    observer.phase("measuring the device")
    faults.at("doctor.measure")
    device = resolve_device("auto")
    figures = measure_device(cache, device)
    impls, warnings = _usable_impls(device)
    return {
        "device": device,
        "cuda": torch.cuda.is_available(),
        "gpu": _gpu_json(),
        "impls": impls,
        "auto_impl": resolve_impl("auto", device),
        "cpu_name": _cpu_name(),
        "cores": num_cores(),
        "threads": figures.threads,
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _GIB, 2),
        "memory_free_gib": round(available_bytes() / _GIB, 2),
        "gflops": {name: round(flops / 1e9, 1) for name, flops in figures.flops.items()},
        "bandwidth_gb_s": round(figures.bandwidth / 1e9, 2),
        "measured_at": figures.measured_at,
        "model": None if measured is None else _model_json(measured),
        "versions": _versions(),
        "notes": cache.notes,
        "warnings": warnings,
    }


def _compute_as_runs_do() -> None:
    """Gives this process what the engine's own process starts with; before torch is imported."""
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")  # see engine.supervisor
    import torch

    from thothy_batch.model.host_memory import keep_freed_memory

    torch.set_num_threads(num_threads())
    keep_freed_memory()


def model_to_measure(
    model_id: str | None,
    dtype: str | None,
    quantization: str | None = None,
    *,
    random_weights: bool,
) -> ModelSpec | None:
    """What the options of `doctor` ask for. Raises ManifestError (bad usage)."""
    if model_id is None:
        options = {
            "--dtype": dtype is not None,
            "--quantization": quantization is not None,
            "--random-weights": random_weights,
        }
        for option in (name for name, is_given in options.items() if is_given):
            raise ManifestError(
                f"{option} goes with --model: without one no model is measured",
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
    """The value of `--dtype`. Raises ManifestError (bad usage)."""
    if dtype not in _DTYPES:
        raise ManifestError(f"--dtype {dtype}: unknown", hint=f"use {', '.join(_DTYPES)}")
    return dtype


def _measure(model: ModelSpec, cache: FigureCache, observer: Observer) -> "MeasuredModel":
    """Calibrates the cost model of later runs. The model is gone from memory afterwards."""
    from thothy_batch.engine.measuring import measure_model

    observer.phase("loading and measuring the model")
    measured = measure_model(EngineSpec(model=model, kv_memory=_KV_MEMORY))
    cache.store_speed(measured.key, measured.speed)
    cache.notes += measured.notes
    return measured


def _model_json(measured: "MeasuredModel") -> dict[str, Any]:
    """A measured model as plain values.

    linears: tokens a second by rows of a step, as far as it was measured; kv_gb_s: reading of KV
    (null: too fast to tell); capacity: sequences that a pool holds against a uniform pool, where
    layers have windows; speed: all that the cost model goes by.
    """
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
        "speed": asdict(speed),
    }


def _linear_rates(speed: Speed) -> list[dict[str, Any]]:
    return [
        {"rows": int(rows), "tokens_per_s": round(rows / seconds, 1)}
        for rows, seconds in speed.linears
        if rows in _ROWS and seconds
    ]


def _capacity(measured: "MeasuredModel") -> list[dict[str, Any]]:
    if all(group.window is None for group in measured.layer_groups):
        return []
    contexts = [length for length in _CONTEXTS if length <= measured.max_model_len]
    return [
        {"context": row.context, "gain": round(row.gain, 3)}
        for row in capacity_table(measured.layer_groups, contexts)
    ]


def _gpu_json() -> dict[str, Any] | None:
    """The GPU as its driver tells; None where none can be used."""
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
    """The implementations that work on a device, proven by a small product and attention; with a
    warning for each that should."""
    usable, warnings = [], []
    for impl in IMPLS:
        try:
            resolve_impl(impl, device)
        except ModelError:
            continue  # it is not for this device
        try:
            _prove(impl, device)
            usable.append(impl)
        except Exception as error:  # whatever keeps it from working is what the user asks for
            warnings.append(f"impl {impl} does not work here: {type(error).__name__}: {error}")
    return usable, warnings


def _prove(impl: str, device: str) -> None:
    """Compute something. Raises whatever keeps an implementation from it."""
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


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _versions() -> dict[str, str]:
    found = {"thothy-batch": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
