"""Gives sequences their blocks and takes them back, group of layers by group of layers.

Full layers get at admission all blocks of the length that is expected; who outgrows it takes one
more at a time. Windowed layers get as many as their window ever needs, and use them in turn.
"""

from array import array
from dataclasses import dataclass, field

from thothy_batch.engine.core.config import EngineConfig
from thothy_batch.engine.core.sequence import Sequence, live_blocks
from thothy_batch.engine.kv_cache.block_manager import BlockManager
from thothy_batch.engine.kv_cache.pinned_prefixes import PinnedPrefixes, PrefixHit

Copy = tuple[int, int, int]  # layer group, from block, to block


@dataclass(slots=True)
class PreparedBlocks:
    """What covering a part of a prompt made known, to be taken back if it is never computed."""

    published: list[int] = field(default_factory=list)  # ids of kept prefixes
    registered: list[int] = field(default_factory=list)  # blocks


class KVAllocator:
    """Block tables in, block tables out; the books are the block manager's."""

    def __init__(self, config: EngineConfig, blocks: BlockManager, kept: PinnedPrefixes) -> None:
        self._config = config
        self._layout = config.layout
        self._groups = config.layout.groups
        self._blocks = blocks
        self._kept = kept
        self._by_content = config.prefix_sharing and blocks.finds_content

    @property
    def num_free_tokens(self) -> int:
        """Tokens for which all layers have free blocks, about: groups may cut pages differently."""
        return (self._blocks.num_blocks - self._blocks.num_used) * self._config.block_size

    def find_prefix(self, seq: Sequence) -> PrefixHit:
        """Blocks that hold the sequence's first tokens already; never all of its tokens.

        A planned request reads what was planned, so that what it computes is known beforehand;
        others, and those that come back after a preemption, whatever has the same content.
        """
        if not self._config.prefix_sharing:
            return PrefixHit(0, ((),) * len(self._groups))  # type: ignore[arg-type]
        hit = self._kept.find(seq.state.prefixes)
        is_planned = seq.state.request.prefixes is not None
        if not self._by_content or (is_planned and not seq.num_ever_computed):
            return hit
        block_size, table = self._config.block_size, list(hit.tables[0])
        for index in range(len(table), (seq.num_tokens - 1) // block_size):
            block_id = self._blocks.find(seq.block_hash(index, block_size))
            if block_id is None:
                break
            table.append(block_id)
        return PrefixHit(len(table) * block_size, (table,))

    def needs(self, seq: Sequence, hit: PrefixHit) -> tuple[int, ...]:
        """Blocks of each group to be taken at admission, shared ones left out."""
        return tuple(
            self._full_need(seq, hit) if group.window is None else self._window_need(seq, hit, g)
            for g, group in enumerate(self._groups)
        )

    def has_room(self, seq: Sequence, hit: PrefixHit, reserve: int) -> bool:
        """Whether the sequence can be admitted and `reserve` blocks of full layers are left."""
        needs = self.needs(seq, hit)
        unread = self._blocks.num_unread(hit.tables[0])
        return self._blocks.fits((needs[0] + reserve + unread, *needs[1:]))

    def admit(self, seq: Sequence, hit: PrefixHit) -> None:
        """Fill tables and spare blocks. There must be room."""
        for g, table in enumerate(hit.tables):
            self._blocks.share(g, live_blocks(table))
        tables, spare = [], []
        for g, need in enumerate(self.needs(seq, hit)):
            taken = self._blocks.take(g, need)
            if self._groups[g].window is None:
                end = self._layout.blocks_for(seq.expected_len) - len(hit.tables[g])
                tables.append(array("i", [*hit.tables[g], *taken[:end]]))
                spare.append(taken[end:])
            else:
                tables.append(array("i", hit.tables[g]))
                spare.append(taken)
        seq.tables, seq.spare = tuple(tables), tuple(spare)

    def prepare(self, seq: Sequence, start: int, end: int) -> PreparedBlocks:
        """Make the tables reach from what position `start` sees to position `end`, and let others
        find what will be there."""
        for g, group in enumerate(self._groups):
            if group.window is not None:
                self._slide(seq, g, group.window, start)
                missing = self._layout.blocks_for(end) - len(seq.tables[g])
                for _ in range(missing):
                    seq.tables[g].append(seq.spare[g].pop())
        covered = PreparedBlocks()
        if self._config.prefix_sharing:
            covered.published = self._kept.pin(seq.state, seq.tables, start, end)
            if self._by_content:
                covered.registered = self._register(seq, start, end)
        return covered

    def rollback(self, covered: PreparedBlocks) -> None:
        """What was covered will not be computed now: nobody may find it."""
        self._kept.unpin(covered.published)
        for block_id in covered.registered:
            self._blocks.forget(block_id)

    def trim_spare(self, seq: Sequence) -> None:
        """The prompt is computed: give back what only its long steps needed."""
        for g, group in enumerate(self._groups):
            if group.window is not None:
                self._slide(seq, g, group.window, seq.num_tokens)
                first = max(0, seq.num_tokens - group.window + 1) // self._config.block_size
                own = self._blocks.num_sole(g, live_blocks(seq.tables[g]))
                most = min(
                    self._layout.window_blocks(group.window),
                    self._layout.blocks_for(seq.max_len) - first,
                )
                kept = max(0, most - own)
                self._blocks.release(g, seq.spare[g][kept:])
                del seq.spare[g][kept:]

    def fork(self, seq: Sequence, forks: list[Sequence]) -> None:
        """Give further samples the prompt's full blocks and the spare ones of their origin."""
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
        """The prompt's last block, where it is partly filled: each sample writes on in its own."""
        index, filled = divmod(seq.prompt_len, self._config.block_size)
        if not filled:
            return []
        return [(g, seq.tables[g][index], fork.tables[g][index]) for g in range(len(self._groups))]

    def grow(self, seq: Sequence, ahead: int = 0) -> bool:
        """Make room for the KV of the next token, or of the one `ahead` tokens behind it where no
        layer has a window; false, and nothing done, where a block lacks."""
        position, block_size = seq.num_computed + ahead, self._config.block_size
        for g, group in enumerate(self._groups):
            if len(seq.tables[g]) * block_size > position:
                continue
            if group.window is not None:
                self._slide(seq, g, group.window, position)
                seq.tables[g].append(seq.spare[g].pop())
            elif self._blocks.fits(tuple(int(i == g) for i in range(len(self._groups)))):
                seq.tables[g].append(self._blocks.take(g, 1)[0])
            else:
                return False
        return True

    def release(self, seq: Sequence, *, remember: bool) -> None:
        """Take all blocks back. `remember`: what was computed can be found again by content."""
        if remember and self._by_content:
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
        # What is published stays behind with those that wait for it.
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
        """Let go of the blocks that the query at `position` and those after it do not see."""
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
