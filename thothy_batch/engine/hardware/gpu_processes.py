"""Other processes with memory of the GPU: reported before weights are loaded into the rest."""

import contextlib
from dataclasses import dataclass
from typing import Any

from thothy_batch.engine.hardware.gpu import Gpu, NvmlError, free_gpu_bytes, open_nvml
from thothy_batch.errors import EngineError

_GIB = 1 << 30
_NOTED_SHARE = 0.05  # of the GPU's memory: less is what a desktop takes


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """A process that computes on the GPU. Memory in bytes; 0 if NVML does not tell."""

    pid: int
    name: str  # "" if NVML does not tell
    num_bytes: int

    def __str__(self) -> str:
        name = f" ({self.name})" if self.name else ""
        size = f" with {self.num_bytes / _GIB:.1f} GiB" if self.num_bytes else ""
        return f"process {self.pid}{name}{size}"


def gpu_processes(gpu: Gpu) -> list[GpuProcess]:
    """Processes that compute on the GPU, largest first. Empty in most containers, where the driver
    shows none."""
    found: list[GpuProcess] = []
    with contextlib.suppress(NvmlError), open_nvml() as nvml:
        handle = nvml.nvmlDeviceGetHandleByUUID(gpu.uuid)
        for each in nvml.nvmlDeviceGetComputeRunningProcesses(handle):
            name = _process_name(nvml, each.pid)
            found.append(GpuProcess(each.pid, name, each.usedGpuMemory or 0))
    return sorted(found, key=lambda process: -process.num_bytes)


def check_free_memory(gpu: Gpu, needed_bytes: int) -> str:
    """A note on what else holds the GPU's memory, "" if nothing does.

    `needed_bytes`: weights and the least KV pool. Raises EngineError, which names the processes
    that hold memory, if they do not fit.
    """
    free = free_gpu_bytes(gpu)
    used = gpu.total_bytes - free
    if used < _NOTED_SHARE * gpu.total_bytes and free >= needed_bytes:
        return ""
    holders = ", ".join(map(str, gpu_processes(gpu)))
    holders = holders or "processes that the driver does not name here"
    sizes = f"{free / _GIB:.1f} of {gpu.total_bytes / _GIB:.1f} GiB of {gpu.name} are free"
    if free >= needed_bytes:
        return f"{sizes}; the rest is held by {holders}"
    raise EngineError(
        f"{sizes}, and the weights with the least KV pool need {needed_bytes / _GIB:.1f}"
        + (f"; held by {holders}" if used >= _NOTED_SHARE * gpu.total_bytes else ""),
        hint="end what holds the GPU's memory, or take a smaller model or engine.device cpu",
    )


def _process_name(nvml: Any, pid: int) -> str:
    """The path of a process; "" for one of another container or user, or one that has ended."""
    try:
        return str(nvml.nvmlSystemGetProcessName(pid))
    except nvml.NVMLError:
        return ""
