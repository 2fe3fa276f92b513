"""The GPU of this machine as its driver tells: known before torch is imported.

The planning process never imports torch. It asks `nvidia-smi`, which comes with the driver, once.
"""

import importlib.util
import os
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_MIB = 1 << 20
_QUERY = "name,memory.total,memory.free,driver_version,compute_cap,uuid"
# What bfloat16 products and the kernels' asynchronous copies need.
LEAST_CAPABILITY = 8.0
_PATIENCE_S = 20.0  # a driver that was idle takes some seconds to wake up


@dataclass(frozen=True, slots=True)
class Gpu:
    """The GPU that would be used. Memory in bytes."""

    name: str
    total_bytes: int
    free_bytes: int
    driver: str
    capability: str  # "9.0"
    uuid: str

    @property
    def is_supported(self) -> bool:
        return float(self.capability) >= LEAST_CAPABILITY


@cache
def find_gpu() -> Gpu | None:
    """The first GPU that this process may use; None where there is none, or torch is built
    without CUDA. Free memory is that of the first call.

    From here on CUDA counts GPUs as `nvidia-smi` does, in this process and its children: else
    its first one is the fastest.
    """
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and not visible.split(",")[0].strip():
        return None
    if not _torch_has_cuda():
        return None
    chosen = None if visible is None else visible.split(",")[0].strip()
    return _parsed(ask_driver(f"--query-gpu={_QUERY}", chosen))


def free_gpu_bytes(gpu: Gpu) -> int:
    """Free memory now; that of the first call where the driver does not answer."""
    said = ask_driver("--query-gpu=memory.free", gpu.uuid).strip()
    return int(said) * _MIB if said.isdigit() else gpu.free_bytes


def ask_driver(query: str, gpu: str | None) -> str:
    """Lines of values with commas between them; "" where there is no answer. `gpu`: its number or
    uuid, None: all of them."""
    chosen = [] if gpu is None else ["-i", gpu]
    command = ["nvidia-smi", query, "--format=csv,noheader,nounits", *chosen]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_S)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return "" if said.returncode else said.stdout


def _parsed(output: str) -> Gpu | None:
    """The first line of the answer; None where it is not one."""
    fields = [field.strip() for field in output.partition("\n")[0].split(",")]
    try:
        name, total, free, driver, capability, uuid = fields
        float(capability)
        return Gpu(name, int(total) * _MIB, int(free) * _MIB, driver, capability, uuid)
    except ValueError:
        return None


def _torch_has_cuda() -> bool:
    """Reads a file of torch's that says how it was built, without importing torch."""
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
