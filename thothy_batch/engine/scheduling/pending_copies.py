"""Pending copies: blocks that the next step copies before it computes.

A prompt's partly filled last block is copied once per further sample. Until then its content must
not be overwritten.
"""

from collections.abc import Iterator

from thothy_batch.engine.core.sequence import Sequence
from thothy_batch.engine.kv_cache.allocator import Copy
from thothy_batch.engine.kv_cache.block_manager import BlockManager


class PendingCopies:
    """Copies by the fork that needs them; each holds a reader on its source block."""

    def __init__(self, blocks: BlockManager) -> None:
        self._blocks = blocks
        self._copies: dict[Sequence, list[Copy]] = {}

    def __iter__(self) -> Iterator[Copy]:
        return (copy for copies in self._copies.values() for copy in copies)

    def add(self, fork: Sequence, copies: list[Copy]) -> None:
        if copies:
            self._copies[fork] = copies
            for group, source, _ in copies:
                self._blocks.share(group, (source,))

    def drop(self, fork: Sequence) -> None:
        """Drop the copies of a fork that does not continue."""
        for group, source, _ in self._copies.pop(fork, ()):
            self._blocks.release(group, (source,))

    def clear(self) -> None:
        """Drop all copies: the step has made them."""
        for fork in list(self._copies):
            self.drop(fork)
