"""The GPU, the processes on it, and host memory, as the system reports them. No torch."""

from thothy_batch.engine.hardware.cpu import cpu_name, num_cores, num_threads
from thothy_batch.engine.hardware.cpu_load import CPULoad, is_quiet, present_load
from thothy_batch.engine.hardware.environment import set_compute_environment
from thothy_batch.engine.hardware.gpu import NvmlError, busy_percent, find_gpu, open_nvml
from thothy_batch.engine.hardware.gpu_processes import check_free_memory
from thothy_batch.engine.hardware.host_memory import available_bytes, free_bytes

__all__ = [
    "CPULoad",
    "NvmlError",
    "available_bytes",
    "busy_percent",
    "check_free_memory",
    "cpu_name",
    "find_gpu",
    "free_bytes",
    "is_quiet",
    "num_cores",
    "num_threads",
    "open_nvml",
    "present_load",
    "set_compute_environment",
]
