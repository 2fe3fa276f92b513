"""The processor that computes, and the cores and threads of this process."""

import os
import platform
from pathlib import Path

_CPU_INFO = Path("/proc/cpuinfo")


def cpu_name() -> str:
    """The model of the processor, as it is sold."""
    return _cpu_info().get("model name") or platform.processor() or platform.machine()


def cpu_signature() -> str:
    """Family, model and stepping with slashes between them: tells apart processors of one name."""
    info = _cpu_info()
    return "/".join(info[part] for part in ("cpu family", "model", "stepping") if part in info)


def num_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def num_threads() -> int:
    """Threads that the engine's own process computes with."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdigit() and int(asked) else num_cores()


def _cpu_info() -> dict[str, str]:
    """Fields of the first processor in /proc/cpuinfo; empty where there is no such file."""
    try:
        text = _CPU_INFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    pairs = (line.partition(":") for line in text.partition("\n\n")[0].splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}
