"""The GPU that this process may use, as NVML describes it before torch is imported.

The planning process imports no torch. NVML comes with the driver, its Python binding (`pynvml`)
with nvidia-ml-py. NVML numbers GPUs by PCI bus; CUDA does so under `COMPUTE_ENVIRONMENT`, which
every process that computes is given.
"""

import contextlib
import importlib.util
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

# bfloat16 products and the kernels' asynchronous copies need it.
LEAST_CAPABILITY = 8.0
_log = logging.getLogger(__name__)


class NvmlError(Exception):
    """NVML cannot be asked; the text says why."""


class NoDriverError(NvmlError):
    """This machine has no NVIDIA driver."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU, or the MIG instance of one. Memory in bytes."""

    name: str
    total_bytes: int
    free_bytes: int  # when it was first looked at
    driver: str
    capability: str  # "9.0"
    uuid: str  # "GPU-..." or "MIG-..."

    @property
    def is_supported(self) -> bool:
        return float(self.capability) >= LEAST_CAPABILITY


@dataclass(frozen=True, slots=True)
class _Device:
    """A CUDA device by its NVML handles; both are the same but for a MIG instance."""

    index: int  # of the GPU, by PCI bus
    gpu: Any
    handle: Any


def find_gpu() -> Gpu | None:
    """The first device of CUDA_VISIBLE_DEVICES; None if there is none (see `why_no_gpu`)."""
    found = _search()
    return found if isinstance(found, Gpu) else None


def why_no_gpu() -> str:
    """The reason why `find_gpu` gives None; "" if it finds a GPU."""
    found = _search()
    return found if isinstance(found, str) else ""


def free_gpu_bytes(gpu: Gpu) -> int:
    """Free memory now; that of the first look if NVML no longer answers."""
    with contextlib.suppress(NvmlError), open_nvml() as nvml:
        return int(nvml.nvmlDeviceGetMemoryInfo(nvml.nvmlDeviceGetHandleByUUID(gpu.uuid)).free)
    return gpu.free_bytes


def busy_percent(gpu: Gpu) -> int | None:
    """Per cent of the driver's last sample period in which a kernel ran; None if NVML does not
    tell, as for a MIG instance."""
    with contextlib.suppress(NvmlError), open_nvml() as nvml:
        handle = nvml.nvmlDeviceGetHandleByUUID(gpu.uuid)
        return int(nvml.nvmlDeviceGetUtilizationRates(handle).gpu)
    return None


@contextlib.contextmanager
def open_nvml() -> Iterator[Any]:
    """The module `pynvml`, initialized; calls may nest. Raises NvmlError, also for an NVML error
    within."""
    try:
        import pynvml  # late: 60 ms, and only a torch with CUDA makes it worthwhile
    except ImportError as error:
        raise NvmlError("the Python package nvidia-ml-py is not installed") from error
    try:
        try:
            pynvml.nvmlInit()
        except (pynvml.NVMLError_LibraryNotFound, pynvml.NVMLError_DriverNotLoaded) as error:
            raise NoDriverError(f"there is no NVIDIA driver ({error})") from error
        try:
            yield pynvml
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        raise NvmlError(f"NVML says: {error}") from error


@cache
def _search() -> Gpu | str:
    """The GPU, or the reason why there is none."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    wanted = None if visible is None else visible.split(",")[0].strip()
    if wanted == "":
        return "CUDA_VISIBLE_DEVICES names no GPU"
    if not _torch_has_cuda():
        return "torch is installed without CUDA"
    try:
        with open_nvml() as nvml:
            for device in _devices(nvml):
                if wanted is None or _is_named(nvml, device, wanted):
                    gpu = _described(nvml, device)
                    _log.info("GPU: %s", gpu)
                    return gpu
    except NvmlError as error:
        # A machine without a GPU is no news; one whose driver is broken computes on its CPU.
        level = logging.DEBUG if isinstance(error, NoDriverError) else logging.WARNING
        _log.log(level, "no GPU can be used: %s", error)
        return str(error)
    return "there is no GPU" if wanted is None else f"CUDA_VISIBLE_DEVICES: there is no {wanted}"


def _devices(nvml: Any) -> Iterator[_Device]:
    """Devices that CUDA can use, by PCI bus. In MIG mode a GPU's instances stand in for it."""
    for index in range(nvml.nvmlDeviceGetCount()):
        with contextlib.suppress(nvml.NVMLError):  # one that this user may not use, or that is lost
            gpu = nvml.nvmlDeviceGetHandleByIndex(index)
            handles = _mig_instances(nvml, gpu) if _is_in_mig_mode(nvml, gpu) else [gpu]
            for handle in handles:
                yield _Device(index, gpu, handle)


def _is_in_mig_mode(nvml: Any, gpu: Any) -> bool:
    try:
        current, _ = nvml.nvmlDeviceGetMigMode(gpu)
    except nvml.NVMLError:
        return False  # too old for MIG
    return bool(current == nvml.NVML_DEVICE_MIG_ENABLE)


def _mig_instances(nvml: Any, gpu: Any) -> list[Any]:
    found = []
    for index in range(nvml.nvmlDeviceGetMaxMigDeviceCount(gpu)):
        with contextlib.suppress(nvml.NVMLError):  # no instance has this number
            found.append(nvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, index))
    return found


def _is_named(nvml: Any, device: _Device, wanted: str) -> bool:
    """True if an entry of CUDA_VISIBLE_DEVICES (a number, or a uuid or its beginning) means the
    device, or the GPU whose first MIG instance it is."""
    if wanted.isdecimal():
        return int(wanted) == device.index
    if not wanted.startswith(("GPU-", "MIG-")):
        return False
    uuids = (nvml.nvmlDeviceGetUUID(handle) for handle in (device.handle, device.gpu))
    return any(uuid.startswith(wanted) for uuid in uuids)


def _described(nvml: Any, device: _Device) -> Gpu:
    memory = nvml.nvmlDeviceGetMemoryInfo(device.handle)
    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(device.gpu)
    return Gpu(
        name=nvml.nvmlDeviceGetName(device.handle),
        total_bytes=int(memory.total),
        free_bytes=int(memory.free),
        driver=nvml.nvmlSystemGetDriverVersion(),
        capability=f"{major}.{minor}",
        uuid=nvml.nvmlDeviceGetUUID(device.handle),
    )


def _torch_has_cuda() -> bool:
    """Reads torch's version file, which says how it was built, without importing torch."""
    torch = importlib.util.find_spec("torch")
    if torch is None or torch.origin is None:
        return False
    path = Path(torch.origin).with_name("version.py")
    spec = importlib.util.spec_from_file_location("_thothy_torch_version", path)
    if not path.is_file() or spec is None or spec.loader is None:
        return False
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, "cuda", None) is not None
