"""Helpers of all contracts: implementations by name, and errors that name a bad argument."""

from importlib import import_module
from types import ModuleType
from typing import NoReturn

import torch

FLOAT_DTYPES = (torch.float32, torch.bfloat16)

_MODULES = {
    "reference": "reference",
    "cpu": "cpu_impl",
    "triton": "triton_impl",
    "flex": "flex_impl",
}


class Implementations(dict[str, ModuleType]):
    """Implementations of one operation by name, imported on first use.

    Lazy, because `cpu` imports Numba, which `reference` does not need. A missing name raises
    ValueError.
    """

    def __init__(self, package: str, names: tuple[str, ...] = ("reference", "cpu")) -> None:
        super().__init__()
        self.package = package
        self.names = names

    def __missing__(self, impl: str) -> ModuleType:
        if impl not in self.names:
            op = self.package.rpartition(".")[2]
            raise ValueError(f"{op}: no implementation {impl!r}; there are {', '.join(self.names)}")
        self[impl] = import_module(f"{self.package}.{_MODULES[impl]}")
        return self[impl]


def refuse(op: str, name: str, value: torch.Tensor, wanted: str) -> NoReturn:
    """Raise the ValueError for argument `name` of operation `op`."""
    raise ValueError(f"{op}: {name} is {value.dtype} {list(value.shape)}, expected {wanted}")


def check_blocks(op: str, k_cache: torch.Tensor, v_cache: torch.Tensor) -> None:
    """ValueError unless blocks [K, P, D] of both caches are contiguous, with equal strides."""
    _, K, P, D = k_cache.shape
    inner = (P * D, D, 1)
    strides = k_cache.stride(), v_cache.stride()
    if any(found[1:] != inner or found[0] < K * P * D for found in strides):
        raise ValueError(
            f"{op}: blocks of k_cache and v_cache must be contiguous [K, P, D] and not overlap"
        )
    if strides[0][0] != strides[1][0]:
        raise ValueError(f"{op}: the blocks of k_cache and v_cache have different strides")
