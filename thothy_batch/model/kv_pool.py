"""The memory of all KV blocks. B blocks, K kv heads, P block_size, D head dim."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from thothy_batch.model.config import ModelConfig
from thothy_batch.model.weights import TORCH_DTYPES
from thothy_kernels.block_copy import copy_blocks


@dataclass(frozen=True, slots=True)
class KVPool:
    """One pair of tensors [B, K, P, D] per layer; blocks never written hold anything."""

    k: list[torch.Tensor]
    v: list[torch.Tensor]
    impl: str  # of the block copies

    @classmethod
    def allocate(
        cls,
        config: ModelConfig,
        num_blocks: int,
        block_size: int,
        dtype: str,
        device: str = "cpu",
        *,
        impl: str = "reference",
    ) -> "KVPool":
        """Reserve the memory; on the CPU a page becomes real when its block is first written."""
        shape = (num_blocks, config.num_kv_heads, block_size, config.head_dim)

        def empty() -> torch.Tensor:
            return torch.empty(shape, dtype=TORCH_DTYPES[dtype], device=device)

        layers = range(config.num_layers)
        return cls([empty() for _ in layers], [empty() for _ in layers], impl)

    @property
    def num_blocks(self) -> int:
        return self.k[0].shape[0]

    @property
    def block_size(self) -> int:
        return self.k[0].shape[2]

    def copy_blocks(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Copy whole blocks (source id, destination id) in every layer, for copy-on-write."""
        sources = [source for source, _ in pairs]
        destinations = [destination for _, destination in pairs]
        for k, v in zip(self.k, self.v, strict=True):
            copy_blocks(k, v, sources, destinations, impl=self.impl)
