"""The memory of all KV blocks. U units, B blocks, K kv heads, P block_size, D head dim.

A unit holds one layer's keys or values of P tokens. A block of a layer group with n layers is the
units b * n .. b * n + n - 1, one per layer in the group's order; so blocks of different groups
share one tensor, and whoever hands them out sees to it that they do not overlap: in large pages of
as many units as every n divides (Jenga, arXiv:2503.18292).
"""

import math
from collections.abc import Sequence

import torch

from thothy_batch.model.config.model_config import ModelConfig, layer_groups
from thothy_batch.model.host_memory import ask_for_huge_pages
from thothy_batch.model.weights import TORCH_DTYPES
from thothy_kernels.block_copy import copy_blocks


class KVPool:
    """One tensor of keys and one of values, [U, K, P, D]; units never written hold anything."""

    def __init__(
        self, k: torch.Tensor, v: torch.Tensor, config: ModelConfig, *, impl: str = "reference"
    ) -> None:
        """`impl`: of the block copies."""
        self.k = k
        self.v = v
        self._impl = impl
        self._group_sizes = [len(group.layers) for group in layer_groups(config)]
        # By layer; made once, since they are needed once per layer and step.
        self._views: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        for group in layer_groups(config):
            num_layers = len(group.layers)
            for place, layer in enumerate(group.layers):
                units = slice(place, None, num_layers)
                self._views[layer] = k[units], v[units]

    @classmethod
    def allocate(
        cls,
        config: ModelConfig,
        num_large_pages: int,
        block_size: int,
        dtype: str,
        device: str = "cpu",
        *,
        impl: str = "reference",
    ) -> "KVPool":
        """Reserve the memory; on the CPU it becomes real where a block is first written."""
        page_units = math.lcm(*(len(group.layers) for group in layer_groups(config)))
        shape = (num_large_pages * page_units, config.num_kv_heads, block_size, config.head_dim)
        k, v = (torch.empty(shape, dtype=TORCH_DTYPES[dtype], device=device) for _ in range(2))
        for tensor in (k, v):
            ask_for_huge_pages(tensor)
        return cls(k, v, config, impl=impl)

    def k_of(self, layer: int) -> torch.Tensor:
        """Keys of one layer, [B, K, P, D] by its group's block ids; blocks lie apart."""
        return self._views[layer][0]

    def v_of(self, layer: int) -> torch.Tensor:
        """Values of one layer, like `k_of`."""
        return self._views[layer][1]

    def copy_blocks(self, group: int, pairs: Sequence[tuple[int, int]]) -> None:
        """Copy whole blocks (source id, destination id) of a group, for copy-on-write."""
        # All layers of a block lie side by side: it is copied as one.
        _, K, P, D = self.k.shape
        whole = (-1, self._group_sizes[group] * K, P, D)
        sources = [source for source, _ in pairs]
        destinations = [destination for _, destination in pairs]
        copy_blocks(self.k.view(whole), self.v.view(whole), sources, destinations, impl=self._impl)
