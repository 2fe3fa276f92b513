"""A fake of NVIDIA's management library: functions of `pynvml` that answer for made-up GPUs."""
# ruff: noqa: N802  (the names are those of the library)

from dataclasses import dataclass, field
from types import SimpleNamespace

import pynvml
import pytest

from thothy_batch.engine.hardware import gpu

MIB = 1 << 20


@dataclass
class FakeGpu:
    """A GPU or a MIG instance; as an NVML handle it stands for itself."""

    uuid: str
    name: str = "NVIDIA H200"
    total_mib: int = 143771
    free_mib: int = 143000
    capability: tuple[int, int] = (9, 0)
    busy: int | None = 50
    processes: list[tuple[int, str, int | None]] = field(default_factory=list)  # pid, name, MiB
    instances: "list[FakeGpu] | None" = None  # None: not in MIG mode
    is_lost: bool = False


class FakeNvml:
    """Puts itself in the place of the driver. `gpus` may be changed at any time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, gpus: list[FakeGpu]) -> None:
        self.gpus = gpus
        self.num_open = 0
        self.num_described = 0
        self.init_error: int | None = None  # code of the NVML error that initializing ends with
        for name in dir(self):
            if name.startswith("nvml"):
                monkeypatch.setattr(pynvml, name, getattr(self, name))
        monkeypatch.setattr(gpu, "_torch_has_cuda", lambda: True)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        gpu._search.cache_clear()

    def nvmlInit(self) -> None:
        if self.init_error is not None:
            raise pynvml.NVMLError(self.init_error)
        self.num_open += 1

    def nvmlShutdown(self) -> None:
        self.num_open -= 1

    def nvmlDeviceGetCount(self) -> int:
        assert self.num_open > 0, "asked before it was initialized"
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> FakeGpu:
        if self.gpus[index].is_lost:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
        return self.gpus[index]

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> FakeGpu:
        assert self.num_open > 0, "asked before it was initialized"
        everything = [each for one in self.gpus for each in (one, *(one.instances or ()))]
        for each in everything:
            if each.uuid == uuid:
                return each
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)

    def nvmlDeviceGetMigMode(self, handle: FakeGpu) -> list[int]:
        if handle.instances is None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return [pynvml.NVML_DEVICE_MIG_ENABLE, pynvml.NVML_DEVICE_MIG_ENABLE]

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: FakeGpu) -> int:
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: FakeGpu, index: int) -> FakeGpu:
        # Numbers of instances have gaps: these have the odd ones.
        if index % 2 == 0 or index // 2 >= len(handle.instances or ()):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return (handle.instances or [])[index // 2]

    def nvmlDeviceGetUUID(self, handle: FakeGpu) -> str:
        return handle.uuid

    def nvmlDeviceGetName(self, handle: FakeGpu) -> str:
        self.num_described += 1
        return handle.name

    def nvmlDeviceGetMemoryInfo(self, handle: FakeGpu) -> SimpleNamespace:
        return SimpleNamespace(total=handle.total_mib * MIB, free=handle.free_mib * MIB)

    def nvmlDeviceGetCudaComputeCapability(self, handle: FakeGpu) -> tuple[int, int]:
        return handle.capability

    def nvmlSystemGetDriverVersion(self) -> str:
        return "570.86.15"

    def nvmlDeviceGetUtilizationRates(self, handle: FakeGpu) -> SimpleNamespace:
        if handle.busy is None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return SimpleNamespace(gpu=handle.busy)

    def nvmlDeviceGetComputeRunningProcesses(self, handle: FakeGpu) -> list[SimpleNamespace]:
        return [
            SimpleNamespace(pid=pid, usedGpuMemory=None if mib is None else mib * MIB)
            for pid, _, mib in handle.processes
        ]

    def nvmlSystemGetProcessName(self, pid: int) -> str:
        for handle in self.gpus:
            for other, name, _ in handle.processes:
                if other == pid and name:
                    return name
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
