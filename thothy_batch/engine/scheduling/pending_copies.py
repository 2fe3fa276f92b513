"""Blocks that the next step copies before it computes: a prompt's last, partly filled block, once
for each further sample. Until then its content is kept from changing hands."""

from collections.abc import Iterator

from thothy_batch.engine.core.sequence import Sequence
from thothy_batch.engine.kv_cache.allocator import Copy
from thothy_batch.engine.kv_cache.block_manager import BlockManager


class PendingCopies:
    """Copies by the fork that they are for; the source of each has a reader here."""

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
        """The fork does not go on: nothing is copied for it."""
        for group, source, _ in self._copies.pop(fork, ()):
            self._blocks.release(group, (source,))

    def clear(self) -> None:
        """All were made."""
        for fork in list(self._copies):
            self.drop(fork)
