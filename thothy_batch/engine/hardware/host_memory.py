"""How much memory this process may still take."""

import os
from pathlib import Path

from thothy_batch.engine.hardware.gpu import find_gpu, free_gpu_bytes

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


def available_bytes() -> int:
    """Free memory of the machine, or of the control group where that is less."""
    available = _machine_available()
    limit, used = _read_int(_CGROUP / "memory.max"), _read_int(_CGROUP / "memory.current")
    if limit is not None and used is not None:
        available = min(available, max(0, limit - used))
    return available


def free_bytes(device: str) -> int:
    """Free memory where the KV pool lies, in this process' eyes."""
    if device == "cpu":
        return available_bytes()
    gpu = find_gpu()
    return 0 if gpu is None else free_gpu_bytes(gpu)


def num_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def num_threads() -> int:
    """Threads that an engine of its own process computes with."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdigit() and int(asked) else num_cores()


def _machine_available() -> int:
    try:
        for line in _MEMINFO.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass  # not Linux: the physical memory stands in
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _read_int(path: Path) -> int | None:
    """The number in a control group's file; None where there is none ("max": no limit)."""
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
