"""Who else has memory of the GPU: said before weights are loaded into what is left."""

from dataclasses import dataclass

from thothy_batch.engine.hardware.gpu import Gpu, ask_driver, free_gpu_bytes
from thothy_batch.errors import EngineError

_GIB = 1 << 30
_MIB = 1 << 20
_QUERY = "--query-compute-apps=pid,process_name,used_memory"
_NOTED_SHARE = 0.05  # of the GPU's memory: less is what a desktop takes


@dataclass(frozen=True, slots=True)
class Tenant:
    """A process that computes on the GPU. Memory in bytes; 0 where the driver does not tell."""

    pid: int
    name: str
    num_bytes: int

    def __str__(self) -> str:
        size = f" with {self.num_bytes / _GIB:.1f} GiB" if self.num_bytes else ""
        return f"process {self.pid} ({self.name}){size}"


def gpu_processes(gpu: Gpu) -> list[Tenant]:
    """Largest first. Empty where nobody is, or where the driver shows no processes, as in most
    containers."""
    found = []
    for line in ask_driver(_QUERY, gpu.uuid).splitlines():
        pid, _, rest = line.partition(",")
        name, _, size = rest.rpartition(",")
        if pid.strip().isdigit():
            number = int(size) * _MIB if size.strip().isdigit() else 0
            found.append(Tenant(int(pid), name.strip(), number))
    return sorted(found, key=lambda tenant: -tenant.num_bytes)


def check_free_memory(gpu: Gpu, needed_bytes: int) -> str:
    """A note on who shares the GPU, "" where nobody does. `needed_bytes`: weights and the least KV
    pool; EngineError, which names who has the memory, where they do not fit."""
    free = free_gpu_bytes(gpu)
    taken = gpu.total_bytes - free
    if taken < _NOTED_SHARE * gpu.total_bytes and free >= needed_bytes:
        return ""
    who = ", ".join(map(str, gpu_processes(gpu))) or "processes that the driver does not name here"
    sizes = f"{free / _GIB:.1f} of {gpu.total_bytes / _GIB:.1f} GiB of {gpu.name} are free"
    if free >= needed_bytes:
        return f"{sizes}; the rest is held by {who}"
    raise EngineError(
        f"{sizes}, and the weights with the least KV pool need {needed_bytes / _GIB:.1f}"
        + (f"; held by {who}" if taken >= _NOTED_SHARE * gpu.total_bytes else ""),
        hint="end what holds the GPU's memory, or take a smaller model or engine.device cpu",
    )
