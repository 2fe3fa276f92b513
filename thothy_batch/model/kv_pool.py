"""The tensors of all KV blocks. U units, B blocks, K kv heads, P block_size, D head dim.

A unit holds one layer's keys or values of P tokens. Block b of a layer group with n layers is units
b * n .. b * n + n - 1, one per layer in the group's order. Blocks of different groups share
one tensor; the block manager keeps them apart in large pages whose number of units every n divides
(Jenga, arXiv:2503.18292).
"""

import math
from collections.abc import Sequence

import torch

from thothy_batch.model.config.model_config import ModelConfig, layer_groups
from thothy_batch.model.host_memory import ask_for_huge_pages
from thothy_batch.model.weights import TORCH_DTYPES
from thothy_kernels.block_copy import copy_blocks


class KVPool:
    """One tensor of keys and one of values, [U, K, P, D]; unwritten units are undefined."""

    def __init__(
        self, k: torch.Tensor, v: torch.Tensor, config: ModelConfig, *, impl: str = "reference"
    ) -> None:
        """`impl`: implementation of the block copies."""
        self.k = k
        self.v = v
        self._impl = impl
        self._group_sizes = [len(group.layers) for group in layer_groups(config)]
        # By layer; created once, because each step needs them for every layer.
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
        """Reserve the memory; on the CPU a page becomes resident at its first write."""
        page_units = math.lcm(*(len(group.layers) for group in layer_groups(config)))
        shape = (num_large_pages * page_units, config.num_kv_heads, block_size, config.head_dim)
        k, v = (torch.empty(shape, dtype=TORCH_DTYPES[dtype], device=device) for _ in range(2))
        for tensor in (k, v):
            ask_for_huge_pages(tensor)
        return cls(k, v, config, impl=impl)

    def k_of(self, layer: int) -> torch.Tensor:
        """Return the keys of one layer, [B, K, P, D] by block id; blocks are not adjacent."""
        return self._views[layer][0]

    def v_of(self, layer: int) -> torch.Tensor:
        """Return the values of one layer, like `k_of`."""
        return self._views[layer][1]

    def copy_blocks(self, group: int, pairs: Sequence[tuple[int, int]]) -> None:
        """Copy whole blocks (source id, destination id) of a group, for copy-on-write."""
        # All layers of a block are adjacent, so it is copied in one piece.
        _, K, P, D = self.k.shape
        whole = (-1, self._group_sizes[group] * K, P, D)
        sources = [source for source, _ in pairs]
        destinations = [destination for _, destination in pairs]
        copy_blocks(self.k.view(whole), self.v.view(whole), sources, destinations, impl=self._impl)
