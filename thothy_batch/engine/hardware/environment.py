"""Environment variables of every process that computes; set before torch is imported there."""

import os

# A user's own setting goes first.
COMPUTE_ENVIRONMENT = {
    # Threads that spin for long at every barrier stall one another as soon as something else runs
    # on the machine: 300 requests of the embedded model beside two busy processes took 20-34 s
    # with OpenMP's default and 5.7 s so.
    "GOMP_SPINCOUNT": "2000",
    # CUDA then numbers GPUs as NVML does; by default its first GPU is the fastest.
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
}


def set_compute_environment() -> None:
    """Prepares this process to compute as the engine's own process does."""
    for name, value in COMPUTE_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
