"""Memory that this process may still allocate, on the host and on the GPU."""

import os
from pathlib import Path

from thothy_batch.engine.hardware.gpu import find_gpu, free_gpu_bytes

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


def available_bytes() -> int:
    """Free memory of the machine, or of the control group if that is less."""
    available = _machine_available()
    limit, used = _read_int(_CGROUP / "memory.max"), _read_int(_CGROUP / "memory.current")
    if limit is not None and used is not None:
        available = min(available, max(0, limit - used))
    return available


def free_bytes(device: str) -> int:
    """Free memory of the device that holds the KV pool."""
    if device == "cpu":
        return available_bytes()
    gpu = find_gpu()
    return 0 if gpu is None else free_gpu_bytes(gpu)


def _machine_available() -> int:
    try:
        for line in _MEMINFO.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass  # not Linux: the physical memory stands in
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _read_int(path: Path) -> int | None:
    """The number in a control group's file; None without one ("max": no limit)."""
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
