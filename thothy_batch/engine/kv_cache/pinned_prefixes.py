"""Pinned prefixes: planned prefixes whose blocks are kept for readers that are not admitted yet.

The first reader of a planned prefix computes its blocks. They stay pinned until the last planned
reader is admitted; from then on they live as long as their readers. So a shared block is computed
once and not freed before its last use, as long as requests arrive in the planned order. In any
other order pinned prefixes can be evicted.
"""

from collections import abc
from collections.abc import Iterable
from dataclasses import dataclass

from thothy_batch.engine.core.sequence import RequestState, live_blocks
from thothy_batch.engine.kv_cache.block_manager import BlockManager
from thothy_batch.records import SharedPrefix

_Tables = tuple[list[int], ...]


@dataclass(slots=True)
class _Entry:
    """A planned prefix.

    `tables`: by layer group the blocks from the parent prefix's end to this one's; -1 where a
    window no longer needs the block. None: not pinned.
    """

    prefix: SharedPrefix
    num_pending: int  # planned readers that were not admitted yet
    tables: _Tables | None = None


@dataclass(frozen=True, slots=True)
class PrefixHit:
    """Blocks that already hold a sequence's first tokens, by layer group."""

    num_tokens: int
    tables: _Tables


class PinnedPrefixes:
    """Counts pending readers and holds a reference to the blocks that they will read."""

    def __init__(self, blocks: BlockManager) -> None:
        self._blocks = blocks
        self._layout = blocks.layout
        self._entries: dict[int, _Entry] = {}  # by prefix id
        self._is_closed = False

    def find(self, path: abc.Sequence[SharedPrefix]) -> PrefixHit:
        """Return the longest pinned prefix of the path. Adds no reader."""
        hit: list[_Entry] = []
        for prefix in path:
            entry = self._entries.get(prefix.prefix_id)
            if entry is None or entry.tables is None:
                break
            hit.append(entry)
        end = hit[-1].prefix.end if hit else 0
        return PrefixHit(end, tuple(self._table(hit, g, end) for g in range(self._num_groups)))

    def pin(
        self, state: RequestState, tables: abc.Sequence[abc.Sequence[int]], start: int, end: int
    ) -> list[int]:
        """Pin the prefixes that end within tokens (start, end] and have pending readers.

        Their tokens are about to be computed into `tables`. Returns the ids of those pinned.
        """
        pinned = []
        first = 0
        for prefix in state.prefixes:
            if start < prefix.end <= end:
                entry = self._entry(prefix)
                if entry.tables is None and entry.num_pending > (not state.is_counted):
                    self._pin(entry, first, tables)
                    pinned.append(prefix.prefix_id)
            first = prefix.end
        return pinned

    def unpin(self, prefix_ids: Iterable[int]) -> None:
        """Unpin prefixes that were never computed. The next reader computes them."""
        for prefix_id in prefix_ids:
            entry = self._entries.get(prefix_id)
            if entry is not None:
                self._unpin(entry)

    def count(self, state: RequestState) -> None:
        """Count an admitted reader. A prefix without pending readers is unpinned."""
        if not state.is_counted:
            state.is_counted = True
            self.cancel_planned(state.request.prefixes or ())

    def cancel_planned(self, path: abc.Sequence[SharedPrefix]) -> None:
        """Subtract a pending reader from every prefix of the path."""
        for prefix in path:
            entry = self._entry(prefix)
            entry.num_pending -= 1
            if entry.num_pending <= 0:
                self._unpin(entry)

    def evict_except(self, path: abc.Sequence[SharedPrefix]) -> bool:
        """Unpin all prefixes that are not on this path; return whether there were any."""
        needed = {prefix.prefix_id for prefix in path}
        evicted = [e for i, e in self._entries.items() if i not in needed and e.tables is not None]
        for entry in evicted:
            self._unpin(entry)
        return bool(evicted)

    def close(self) -> None:
        """Unpin all prefixes for good: no planned reader will arrive any more."""
        self._is_closed = True
        for entry in self._entries.values():
            entry.num_pending = 0
            self._unpin(entry)

    def tables(self, group: int) -> list[list[int]]:
        """Return the pinned blocks of a group, one list per prefix."""
        tables = (entry.tables for entry in self._entries.values())
        return [live_blocks(table[group]) for table in tables if table is not None]

    @property
    def num_pinned(self) -> int:
        """Prefixes whose blocks are pinned."""
        return sum(entry.tables is not None for entry in self._entries.values())

    @property
    def _num_groups(self) -> int:
        return len(self._layout.groups)

    def _entry(self, prefix: SharedPrefix) -> _Entry:
        entry = self._entries.get(prefix.prefix_id)
        if entry is None:
            num_pending = 0 if self._is_closed else prefix.num_readers
            entry = self._entries[prefix.prefix_id] = _Entry(prefix, num_pending)
        return entry

    def _pin(self, entry: _Entry, start: int, tables: abc.Sequence[abc.Sequence[int]]) -> None:
        P, end = self._layout.block_size, entry.prefix.end
        parts = []
        for group, table in zip(self._layout.groups, tables, strict=True):
            part = list(table[start // P : end // P])
            if group.window is not None:
                # A reader that continues from `end` sees no further back than its window.
                num_past = max(0, max(0, end - group.window + 1) // P - start // P)
                part[:num_past] = [-1] * num_past
            parts.append(part)
        entry.tables = tuple(parts)
        for g, part in enumerate(parts):
            self._blocks.share(g, live_blocks(part))

    def _unpin(self, entry: _Entry) -> None:
        if entry.tables is not None:
            for g, part in enumerate(entry.tables):
                self._blocks.release(g, live_blocks(part))
            entry.tables = None

    def _table(self, hit: list[_Entry], g: int, end: int) -> list[int]:
        table = [block_id for entry in hit if entry.tables for block_id in entry.tables[g]]
        window = self._layout.groups[g].window
        if window is not None:
            num_past = max(0, end - window + 1) // self._layout.block_size
            table[:num_past] = [-1] * num_past
        return table
