"""What this machine can do: found out by asking and, for a few seconds, by measuring."""

import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from thothy_batch import __version__
from thothy_batch.engine.config import IMPLS, resolve_device, resolve_impl
from thothy_batch.engine.memory import available_bytes, num_cores

_PACKAGES = ("torch", "numba", "numpy", "duckdb", "pyarrow", "tokenizers", "transformers")
_GEMM_SIZE = 1024
_READ_BYTES = 256 << 20  # beyond the caches of most machines
_MEASURE_S = 0.4
_GIB = 1 << 30


def examine() -> dict[str, Any]:
    """Keys: device, impls, versions, cores, memory, gflops (float32, bfloat16), bandwidth_gb_s.

    gflops: 1e9 floating point operations a second of one matrix product; bandwidth: 1e9 bytes a
    second, reading.
    """
    # Late: torch takes more than a second to import, and no other command of this side needs it.
    import torch

    device = resolve_device("auto")
    impls, warnings = _usable_impls()
    return {
        "device": device,
        "cuda": torch.cuda.is_available(),
        "impls": impls,
        "auto_impl": resolve_impl("auto", device),
        "cpu_name": _cpu_name(),
        "cores": num_cores(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _GIB, 2),
        "memory_free_gib": round(available_bytes() / _GIB, 2),
        "gflops": {name: _gflops(getattr(torch, name)) for name in ("float32", "bfloat16")},
        "bandwidth_gb_s": _bandwidth(),
        "versions": _versions(),
        "warnings": warnings,
    }


def _usable_impls() -> tuple[list[str], list[str]]:
    """The implementations that work here, proven by a small product."""
    import torch

    from thothy_kernels.linear import pack_linear

    usable, warnings = [], []
    for impl in IMPLS:
        try:
            pack_linear(torch.ones(8, 8), None, impl=impl)(torch.ones(1, 8))
            usable.append(impl)
        except Exception as error:  # whatever keeps it from working is what the user asks for
            warnings.append(f"impl {impl} does not work here: {type(error).__name__}: {error}")
    return usable, warnings


def _gflops(dtype: Any) -> float:
    import torch

    a = torch.ones(_GEMM_SIZE, _GEMM_SIZE, dtype=dtype)
    b = torch.ones(_GEMM_SIZE, _GEMM_SIZE, dtype=dtype)
    seconds = _best_time(lambda: torch.mm(a, b))
    return round(2 * _GEMM_SIZE**3 / seconds / 1e9, 1)


def _bandwidth() -> float:
    import torch

    data = torch.ones(_READ_BYTES // 4)
    return round(_READ_BYTES / _best_time(lambda: data.sum()) / 1e9, 2)


def _best_time(work: Callable[[], object]) -> float:
    """Seconds of the fastest of several goes, the first one left out."""
    work()
    best = float("inf")
    end = time.monotonic() + _MEASURE_S
    while time.monotonic() < end:
        began = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - began)
    return best


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
