"""The roofline receipt of a run: the time its finished requests need at the device's limits.

No term depends on how they were scheduled.
"""

import numpy as np

from thothy_batch.engine.cost import ModelWork, RooflineWork
from thothy_batch.plan import BlockHashes, chain_prompts, prefix_tree
from thothy_batch.records import DeviceLimits, RequestResult, TokenIds

# Prompts are hashed many at a time: one by one takes ten times as long.
_BUFFER = 256


class RooflineReceipt:
    """Collects finished requests; keeps eight bytes per block of a prompt."""

    def __init__(
        self, work: ModelWork | None, limits: DeviceLimits | None, block_size: int
    ) -> None:
        """`work` None: a model that computes nothing. `limits` None: those of the device
        are not known."""
        self._work = work
        self._limits = limits
        self._block_size = block_size
        self._prompts: list[TokenIds] = []
        self._outputs: list[tuple[int, ...]] = []
        self._block_hashes: list[BlockHashes] = []

    def add(self, prompt_token_ids: TokenIds, result: RequestResult) -> None:
        """Add a finished request, or one stage of it."""
        if self._work is None:
            return
        self._prompts.append(prompt_token_ids)
        self._outputs.append(tuple(len(c.token_ids) for c in result.completions))
        if len(self._prompts) >= _BUFFER:
            self._hash()

    def roofline_s(self, dtype: str) -> float | None:
        """Seconds that the work needs at the device's limits; None where they are not known."""
        if self._work is None or self._limits is None or not self._outputs:
            return None
        self._hash()
        hashes = _joined(self._block_hashes, self._block_size)
        tree = prefix_tree(hashes, np.zeros(len(hashes.lengths), np.int64))
        total = RooflineWork(self._work)
        for length, outputs, path in zip(
            hashes.lengths.tolist(), self._outputs, tree.paths(), strict=True
        ):
            total.add(length, outputs, path)
        rates = self._limits.flops
        flops = rates.get(self._work.product_format(dtype))
        return flops and total.seconds(flops, self._limits.bandwidth, rates[dtype])

    def _hash(self) -> None:
        if self._prompts:
            self._block_hashes.append(chain_prompts(self._prompts, self._block_size))
            self._prompts = []


def _joined(parts: list[BlockHashes], block_size: int) -> BlockHashes:
    lengths = np.concatenate([part.lengths for part in parts])
    counts = np.concatenate([np.diff(part.starts) for part in parts])
    starts = np.concatenate((np.zeros(1, np.int64), np.cumsum(counts)))
    return BlockHashes(np.concatenate([part.hashes for part in parts]), starts, lengths, block_size)
