"""Triton's launches without a device: bound and specialised as for an H100, logged, then dropped.

What kernels would write is left as it was. Needs a process of its own with TRITON_INTERPRET=0,
since kernels that are interpreted have no specialisations.
"""

from importlib import import_module
from importlib.util import find_spec
from pkgutil import iter_modules
from typing import Any

import torch
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

import thothy_kernels


class _Driver:
    """The part of a driver that a launch needs up to the compiler."""

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")


class LaunchLog:
    """Counts launches, and tells which of them a device would have compiled a kernel for."""

    def __init__(self) -> None:
        assert not knobs.runtime.interpret, "interpreted kernels are not specialised"
        self.num_launches = 0
        self._known: set[tuple[str, str]] = set()
        self._new: list[str] = []
        _import_kernels()
        driver.set_active(_Driver())
        knobs.runtime.jit_cache_hook = self._on_launch
        # Kernels are decorated by now; launchers accept the CPU's tensors where this is set.
        knobs.runtime.interpret = True

    def take_new(self) -> list[str]:
        """Names of the kernels that were specialised since the last call, once for each way."""
        new, self._new = self._new, []
        return sorted(new)

    def _on_launch(self, *, key: str, fn: Any, **_: object) -> bool:
        """Called for each launch, since none is compiled. True: do not compile, do not launch."""
        self.num_launches += 1
        if (fn.name, key) not in self._known:
            self._known.add((fn.name, key))
            self._new.append(fn.name.rpartition(".")[2])
        return True


def _import_kernels() -> None:
    for operation in iter_modules(thothy_kernels.__path__):
        name = f"thothy_kernels.{operation.name}.triton_impl"
        if operation.ispkg and find_spec(name) is not None:
            import_module(name)
