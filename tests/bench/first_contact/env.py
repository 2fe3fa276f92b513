"""The machine: versions, packages, the driver's answers, and one kernel compiled and launched."""

import importlib.util
import os
import platform
import shutil
import sysconfig
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import torch
from device_place import DEVICE, IS_DRY_RUN

from first_contact.place import HALF, seeded
from first_contact.recorder import Check
from thothy_batch.engine.hardware.gpu import find_gpu, free_gpu_bytes
from thothy_kernels.gated_activation import gated

_VERSIONS = ("torch", "triton", "transformers", "numpy")
# Imported by parts of the product that a GPU machine may lack.
_OPTIONAL = ("duckdb", "pytz", "pydantic", "pyarrow", "numba", "typer", "jinja2", "tokenizers")
# Between the two readings, and for what the driver keeps for itself.
_READINGS_DIFFER = 2 << 30


def checks() -> Iterator[Check]:
    yield "versions", versions
    if not IS_DRY_RUN:
        yield "device", device
        yield "driver", driver
    yield "launch", launch


def versions() -> dict[str, object]:
    missing = [name for name in _OPTIONAL if importlib.util.find_spec(name) is None]
    return {
        "python": platform.python_version(),
        "cuda": torch.version.cuda,
        **{name: metadata.version(name) for name in _VERSIONS},
        "missing": missing,
        # Triton builds its launchers with them.
        "compiler": os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang"),
        "has_python_h": Path(sysconfig.get_paths()["include"], "Python.h").exists(),
    }


def device() -> dict[str, object]:
    found = torch.cuda.get_device_properties(0)
    return {
        "name": found.name,
        "capability": f"{found.major}.{found.minor}",
        "multiprocessors": found.multi_processor_count,
        "memory_mib": found.total_memory >> 20,
        # Not every version of torch tells.
        "shared_bytes_per_multiprocessor": getattr(found, "shared_memory_per_multiprocessor", None),
        "shared_bytes_per_program": getattr(found, "shared_memory_per_block_optin", None),
    }


def driver() -> dict[str, object]:
    """`device: auto` and the size of the pool rest on what nvidia-smi says."""
    gpu = find_gpu()
    assert gpu is not None, "nvidia-smi names no GPU: device auto would take the CPU"
    assert gpu.is_supported, f"{gpu} is not supported: device auto would take the CPU"
    free, _ = torch.cuda.mem_get_info()
    told = free_gpu_bytes(gpu)
    assert abs(told - free) < _READINGS_DIFFER, f"nvidia-smi says {told} free, CUDA {free}"
    return {"driver": gpu.driver, "free_mib": free >> 20}


def launch() -> str:
    """Its seconds are those of compiling a small kernel."""
    x = torch.randn((1, 256), generator=seeded()).to(HALF)
    out = gated(x.to(DEVICE), activation="silu", impl="triton")
    assert out.isfinite().all()
    return "a kernel was compiled and launched"
