"""The roofline receipt of a run: the time its finished requests need at the device's limits.

No term depends on how they were scheduled.
"""

from collections.abc import Mapping

import numpy as np

from thothy_batch.engine.cost.cost_model import ModelWork
from thothy_batch.engine.cost.roofline import RooflineWork
from thothy_batch.plan import BlockHashes, chain_prompts, prefix_tree
from thothy_batch.records import RequestResult, TokenIds

# Prompts are hashed many at a time: one by one takes ten times as long.
_BUFFER = 256


class RooflineReceipt:
    """Collects finished requests; keeps eight bytes per block of a prompt."""

    def __init__(self, model: ModelWork | None, device: object, block_size: int) -> None:
        """`model` None: it computes nothing. `device`: the engine's mapping of its device's limits
        (flops by dtype, bandwidth); anything else: not known."""
        self._model = model
        self._device = device if isinstance(device, Mapping) else None
        self._block_size = block_size
        self._prompts: list[TokenIds] = []
        self._outputs: list[tuple[int, ...]] = []
        self._block_hashes: list[BlockHashes] = []

    def add(self, prompt_token_ids: TokenIds, result: RequestResult) -> None:
        """Add a finished request, or one stage of it."""
        if self._model is None:
            return
        self._prompts.append(prompt_token_ids)
        self._outputs.append(tuple(len(c.token_ids) for c in result.completions))
        if len(self._prompts) >= _BUFFER:
            self._hash()

    def roofline_s(self, dtype: str) -> float | None:
        """Seconds that the requests need at the device's limits; None where these are not known."""
        if self._model is None or self._device is None or not self._outputs:
            return None
        self._hash()
        hashes = _joined(self._block_hashes, self._block_size)
        tree = prefix_tree(hashes, np.zeros(len(hashes.lengths), np.int64))
        total = RooflineWork(self._model)
        for length, outputs, path in zip(
            hashes.lengths.tolist(), self._outputs, tree.paths(), strict=True
        ):
            total.add(length, outputs, path)
        rates = self._device["flops"]
        flops = rates.get(self._model.product_format(dtype))
        return flops and total.seconds(flops, self._device["bandwidth"], rates[dtype])

    def _hash(self) -> None:
        if self._prompts:
            self._block_hashes.append(chain_prompts(self._prompts, self._block_size))
            self._prompts = []


def _joined(parts: list[BlockHashes], block_size: int) -> BlockHashes:
    lengths = np.concatenate([part.lengths for part in parts])
    counts = np.concatenate([np.diff(part.starts) for part in parts])
    starts = np.concatenate((np.zeros(1, np.int64), np.cumsum(counts)))
    return BlockHashes(np.concatenate([part.hashes for part in parts]), starts, lengths, block_size)
