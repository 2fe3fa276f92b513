"""KV allocator: fills and frees the block tables of sequences, one layer group at a time.

Full layers get all blocks of the expected length at admission; a sequence that outgrows it gets one
more block at a time. Windowed layers get as many blocks as their window ever needs and reuse them.
"""

from array import array
from dataclasses import dataclass, field

from thothy_batch.engine.core.config import EngineConfig
from thothy_batch.engine.core.sequence import Sequence, live_blocks
from thothy_batch.engine.kv_cache.block_manager import BlockManager
from thothy_batch.engine.kv_cache.pinned_prefixes import PinnedPrefixes, PrefixHit

Copy = tuple[int, int, int]  # layer group, source block, target block


@dataclass(slots=True)
class PreparedBlocks:
    """Blocks that became findable before they were computed; a failed step rolls them back."""

    pinned: list[int] = field(default_factory=list)  # prefix ids
    registered: list[int] = field(default_factory=list)  # block ids


class KVAllocator:
    """Maps sequences to blocks; the block manager counts their readers."""

    def __init__(self, config: EngineConfig, blocks: BlockManager, pinned: PinnedPrefixes) -> None:
        self._config = config
        self._layout = config.layout
        self._groups = config.layout.groups
        self._blocks = blocks
        self._pinned = pinned
        self._prefix_lookup = config.prefix_sharing and blocks.has_prefix_lookup

    @property
    def num_free_tokens(self) -> int:
        """Tokens that all layers have free blocks for; approximate where groups split pages."""
        return (self._blocks.num_blocks - self._blocks.num_used) * self._config.block_size

    def find_prefix(self, seq: Sequence) -> PrefixHit:
        """Return blocks that already hold the sequence's first tokens, never all of its tokens.

        A planned request reads its planned prefixes, so that the tokens it computes are known
        beforehand. Other requests, and preempted ones, read any block of equal content.
        """
        if not self._config.prefix_sharing:
            return PrefixHit(0, ((),) * len(self._groups))  # type: ignore[arg-type]
        hit = self._pinned.find(seq.state.prefixes)
        is_planned = seq.state.request.prefixes is not None
        if not self._prefix_lookup or (is_planned and not seq.num_ever_computed):
            return hit
        block_size, table = self._config.block_size, list(hit.tables[0])
        for index in range(len(table), (seq.num_tokens - 1) // block_size):
            block_id = self._blocks.find(seq.block_hash(index, block_size))
            if block_id is None:
                break
            table.append(block_id)
        return PrefixHit(len(table) * block_size, (table,))

    def needs(self, seq: Sequence, hit: PrefixHit) -> tuple[int, ...]:
        """Return the blocks of each group to allocate at admission, shared ones excluded."""
        return tuple(
            self._full_need(seq, hit) if group.window is None else self._window_need(seq, hit, g)
            for g, group in enumerate(self._groups)
        )

    def has_room(self, seq: Sequence, hit: PrefixHit, reserve: int) -> bool:
        """Return whether admission leaves `reserve` blocks of full layers free."""
        needs = self.needs(seq, hit)
        unread = self._blocks.num_unread(hit.tables[0])
        return self._blocks.fits((needs[0] + reserve + unread, *needs[1:]))

    def admit(self, seq: Sequence, hit: PrefixHit) -> None:
        """Fill tables and spare blocks. There must be room."""
        for g, table in enumerate(hit.tables):
            self._blocks.share(g, live_blocks(table))
        tables, spare = [], []
        for g, need in enumerate(self.needs(seq, hit)):
            block_ids = self._blocks.allocate(g, need)
            if self._groups[g].window is None:
                end = self._layout.blocks_for(seq.expected_len) - len(hit.tables[g])
                tables.append(array("i", [*hit.tables[g], *block_ids[:end]]))
                spare.append(block_ids[end:])
            else:
                tables.append(array("i", hit.tables[g]))
                spare.append(block_ids)
        seq.tables, seq.spare = tuple(tables), tuple(spare)

    def prepare(self, seq: Sequence, start: int, end: int) -> PreparedBlocks:
        """Prepare the tables for computing tokens [start, end), and make their blocks findable."""
        for g, group in enumerate(self._groups):
            if group.window is not None:
                self._slide(seq, g, group.window, start)
                missing = self._layout.blocks_for(end) - len(seq.tables[g])
                for _ in range(missing):
                    seq.tables[g].append(seq.spare[g].pop())
        prepared = PreparedBlocks()
        if self._config.prefix_sharing:
            prepared.pinned = self._pinned.pin(seq.state, seq.tables, start, end)
            if self._prefix_lookup:
                prepared.registered = self._register(seq, start, end)
        return prepared

    def rollback(self, prepared: PreparedBlocks) -> None:
        """Make prepared blocks unfindable: they will not be computed now."""
        self._pinned.unpin(prepared.pinned)
        for block_id in prepared.registered:
            self._blocks.unregister(block_id)

    def trim_spare(self, seq: Sequence) -> None:
        """Free the spare window blocks that only prefill needed. The prompt must be computed."""
        for g, group in enumerate(self._groups):
            if group.window is not None:
                self._slide(seq, g, group.window, seq.num_tokens)
                first = max(0, seq.num_tokens - group.window + 1) // self._config.block_size
                own = self._blocks.num_sole(g, live_blocks(seq.tables[g]))
                most = min(
                    self._layout.window_blocks(group.window),
                    self._layout.blocks_for(seq.max_len) - first,
                )
                num_spare = max(0, most - own)
                self._blocks.release(g, seq.spare[g][num_spare:])
                del seq.spare[g][num_spare:]

    def fork(self, seq: Sequence, forks: list[Sequence]) -> None:
        """Give further samples the prompt's full blocks and their part of its spare blocks."""
        full = seq.prompt_len // self._config.block_size
        for fork in forks:
            tables: list[array[int]] = []
            spare: list[list[int]] = []
            for g, group in enumerate(self._groups):
                shared = seq.tables[g][:full]
                self._blocks.share(g, live_blocks(shared))
                num = self._layout.fork_need(g, seq.prompt_len, seq.expected_len, seq.max_len)
                own = [seq.spare[g].pop() for _ in range(num)]
                if group.window is None:
                    tables.append(shared + array("i", own))
                    spare.append([])
                else:
                    partial = 1 if seq.prompt_len % self._config.block_size else 0
                    tables.append(shared + array("i", own[:partial]))
                    spare.append(own[partial:])
            fork.tables, fork.spare = tuple(tables), tuple(spare)

    def copies(self, seq: Sequence, fork: Sequence) -> list[Copy]:
        """Return the copies of the prompt's partly filled last block into the fork's own."""
        index, filled = divmod(seq.prompt_len, self._config.block_size)
        if not filled:
            return []
        return [(g, seq.tables[g][index], fork.tables[g][index]) for g in range(len(self._groups))]

    def grow(self, seq: Sequence, ahead: int = 0) -> bool:
        """Ensure blocks for the next token; False if a block is missing, with no effect.

        `ahead`: tokens after the next one to cover instead, where no layer has a window.
        """
        position, block_size = seq.num_computed + ahead, self._config.block_size
        for g, group in enumerate(self._groups):
            if len(seq.tables[g]) * block_size > position:
                continue
            if group.window is not None:
                self._slide(seq, g, group.window, position)
                seq.tables[g].append(seq.spare[g].pop())
            elif self._blocks.fits(tuple(int(i == g) for i in range(len(self._groups)))):
                seq.tables[g].append(self._blocks.allocate(g, 1)[0])
            else:
                return False
        return True

    def release(self, seq: Sequence, *, remember: bool) -> None:
        """Release all blocks. `remember`: keep computed full blocks findable by content."""
        if remember and self._prefix_lookup:
            self._register(seq, 0, seq.num_computed)
        tables, spare = seq.drop_blocks()
        for g, table in enumerate(tables):
            self._blocks.release(g, live_blocks(table))
            self._blocks.release(g, spare[g])

    def _full_need(self, seq: Sequence, hit: PrefixHit) -> int:
        first = self._layout.blocks_for(seq.expected_len)
        shared = hit.num_tokens // self._config.block_size
        return (
            first - shared + seq.num_unforked * (first - seq.prompt_len // self._config.block_size)
        )

    def _window_need(self, seq: Sequence, hit: PrefixHit, g: int) -> int:
        window = self._groups[g].window
        assert window is not None
        new = min(seq.num_tokens - hit.num_tokens, self._config.max_step_tokens)
        rest = self._layout.blocks_for(seq.max_len) - hit.num_tokens // self._config.block_size
        own = min(rest, self._layout.window_blocks(window, new))
        # Pinned blocks stay behind for later readers while this sequence's window moves on.
        own += sum(
            min(self._layout.window_blocks(window), prefix.end // self._config.block_size)
            for prefix in seq.state.prefixes
            if prefix.end > hit.num_tokens
        )
        if seq.num_unforked:
            fork = self._layout.fork_need(g, seq.prompt_len, seq.expected_len, seq.max_len)
            own += seq.num_slots * fork
        return own

    def _slide(self, seq: Sequence, g: int, window: int, position: int) -> None:
        """Free the blocks that neither the query at `position` nor a later one sees."""
        table, spare = seq.tables[g], seq.spare[g]
        index = min(max(0, position - window + 1) // self._config.block_size, len(table)) - 1
        while index >= 0 and table[index] != -1:
            if self._blocks.num_sole(g, (table[index],)):
                spare.append(table[index])
            else:
                self._blocks.release(g, (table[index],))
            table[index] = -1
            index -= 1

    def _register(self, seq: Sequence, start: int, end: int) -> list[int]:
        block_size, table = self._config.block_size, seq.tables[0]
        return [
            table[index]
            for index in range(start // block_size, end // block_size)
            if self._blocks.register(seq.block_hash(index, block_size), table[index])
        ]
