"""Planned prefixes while they wait for their readers.

The first reader of a planned prefix computes its blocks. They are kept, without being any
sequence's, until the last planned reader has been admitted; from then on they live as long as
those who read them. So a shared block is computed once and never evicted before its last use,
as long as requests come in the planned order; where they do not, what is kept can be dropped.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from thothy_batch.engine.core.sequence import RequestState, live_blocks
from thothy_batch.engine.kv_cache.block_manager import BlockManager
from thothy_batch.records import SharedPrefix

_Tables = tuple[list[int], ...]


@dataclass(slots=True)
class _Kept:
    """`tables`: blocks of positions start .. end by layer group, from block start / block_size
    on; -1 where a window has no more use for it. None: not computed, or dropped."""

    prefix: SharedPrefix
    num_to_come: int  # planned readers that were not admitted yet
    start: int = 0
    tables: _Tables | None = None


@dataclass(frozen=True, slots=True)
class PrefixHit:
    """Blocks that hold a sequence's first tokens already, by layer group."""

    num_tokens: int
    tables: _Tables


class PinnedPrefixes:
    """Counts the readers to come and holds a reference to the blocks that wait for them."""

    def __init__(self, blocks: BlockManager) -> None:
        self._blocks = blocks
        self._layout = blocks.layout
        self._kept: dict[int, _Kept] = {}
        self._is_closed = False

    def find(self, path: Sequence[SharedPrefix]) -> PrefixHit:
        """The longest beginning of the path that is kept. Adds no reader."""
        hit: list[_Kept] = []
        for prefix in path:
            kept = self._kept.get(prefix.prefix_id)
            if kept is None or kept.tables is None:
                break
            hit.append(kept)
        end = hit[-1].prefix.end if hit else 0
        return PrefixHit(end, tuple(self._table(hit, g, end) for g in range(self._num_groups)))

    def pin(
        self, state: RequestState, tables: Sequence[Sequence[int]], start: int, end: int
    ) -> list[int]:
        """Keep the prefixes that end among the tokens start .. end, which are about to be
        computed into these tables, as far as readers are to come. Returns the ids of those kept."""
        published = []
        first = 0
        for prefix in state.prefixes:
            if start < prefix.end <= end:
                kept = self._entry(prefix)
                if kept.tables is None and kept.num_to_come > (not state.is_counted):
                    self._keep(kept, first, tables)
                    published.append(prefix.prefix_id)
            first = prefix.end
        return published

    def unpin(self, prefix_ids: Iterable[int]) -> None:
        """Drop kept prefixes that were never computed, or are not worth their memory. The next
        reader computes them again."""
        for prefix_id in prefix_ids:
            kept = self._kept.get(prefix_id)
            if kept is not None:
                self._drop(kept)

    def count(self, state: RequestState) -> None:
        """One reader was admitted. What has no reader to come is kept no longer."""
        if not state.is_counted:
            state.is_counted = True
            self.cancel_planned(state.request.prefixes or ())

    def cancel_planned(self, path: Sequence[SharedPrefix]) -> None:
        """One reader less is to come."""
        for prefix in path:
            kept = self._entry(prefix)
            kept.num_to_come -= 1
            if kept.num_to_come <= 0:
                self._drop(kept)

    def evict_except(self, path: Sequence[SharedPrefix]) -> bool:
        """Drop all that is kept but what lies on this path; whether there was anything."""
        needed = {prefix.prefix_id for prefix in path}
        others = [k for i, k in self._kept.items() if i not in needed and k.tables is not None]
        for kept in others:
            self._drop(kept)
        return bool(others)

    def close(self) -> None:
        """Nobody is to come any more."""
        self._is_closed = True
        for kept in self._kept.values():
            kept.num_to_come = 0
            self._drop(kept)

    def held(self, group: int) -> list[list[int]]:
        """Lists of the blocks that are kept, for checks."""
        tables = (kept.tables for kept in self._kept.values())
        return [live_blocks(table[group]) for table in tables if table is not None]

    @property
    def num_kept(self) -> int:
        """Prefixes whose blocks are kept."""
        return sum(kept.tables is not None for kept in self._kept.values())

    @property
    def _num_groups(self) -> int:
        return len(self._layout.groups)

    def _entry(self, prefix: SharedPrefix) -> _Kept:
        kept = self._kept.get(prefix.prefix_id)
        if kept is None:
            to_come = 0 if self._is_closed else prefix.num_readers
            kept = self._kept[prefix.prefix_id] = _Kept(prefix, to_come)
        return kept

    def _keep(self, kept: _Kept, start: int, tables: Sequence[Sequence[int]]) -> None:
        P, end = self._layout.block_size, kept.prefix.end
        parts = []
        for group, table in zip(self._layout.groups, tables, strict=True):
            part = list(table[start // P : end // P])
            if group.window is not None:
                # Whoever goes on from `end` sees no further back.
                gone = max(0, end - group.window + 1) // P - start // P
                part[: max(0, gone)] = [-1] * max(0, gone)
            parts.append(part)
        kept.start, kept.tables = start, tuple(parts)
        for g, part in enumerate(parts):
            self._blocks.share(g, live_blocks(part))

    def _drop(self, kept: _Kept) -> None:
        if kept.tables is not None:
            for g, part in enumerate(kept.tables):
                self._blocks.release(g, live_blocks(part))
            kept.tables = None

    def _table(self, hit: list[_Kept], g: int, end: int) -> list[int]:
        table = [block_id for kept in hit if kept.tables for block_id in kept.tables[g]]
        window = self._layout.groups[g].window
        if window is not None:
            gone = max(0, end - window + 1) // self._layout.block_size
            table[:gone] = [-1] * gone
        return table
