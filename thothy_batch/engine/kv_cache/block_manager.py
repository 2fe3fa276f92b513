"""Which block is whose: reference counts over the page pool, and what free blocks still hold.

Never touches the memory itself. A block has as many readers as tables and kept prefixes name it.
A block without readers is free; where all layers keep the same tokens, a free block whose content
is known by hash stays findable until it is taken for something else, the longest free first.
Blocks that hold nothing findable are taken before those that do.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence

from thothy_batch.engine.core.kv_layout import KVLayout
from thothy_batch.engine.kv_cache.page_pool import PagePool


class BlockManager:
    """The pool's books. `num_pages` large pages, divided as `layout` says."""

    def __init__(self, layout: KVLayout, num_pages: int) -> None:
        self.layout = layout
        per_page = layout.blocks_per_page
        self._pages = PagePool(num_pages, per_page)
        self._num_readers = [[0] * (num_pages * number) for number in per_page]
        self._is_uniform = len(per_page) == 1
        self._cached: OrderedDict[int, None] = OrderedDict()  # free, findable, oldest first
        self._hash_of: dict[int, bytes] = {}
        self._block_of: dict[bytes, int] = {}
        self._units_used = 0
        self._layers = [len(group.layers) for group in layout.groups]

    @property
    def finds_content(self) -> bool:
        """Whether blocks can be found by their content: where all layers keep the whole context."""
        return self._is_uniform and self.layout.groups[0].window is None

    @property
    def num_blocks(self) -> int:
        """Blocks of all layers that the pool has the memory of."""
        return self._pages.num_pages * self.layout.page_units // self.layout.num_layers

    @property
    def num_used(self) -> int:
        """Memory with readers, in blocks of all layers, rounded up."""
        return -(-self._units_used // self.layout.num_layers)

    def fits(self, needs: Sequence[int]) -> bool:
        """Whether these numbers of blocks, one per layer group, can be taken together."""
        if self._is_uniform:
            return needs[0] <= self._pages.num_free(0) + len(self._cached)
        return self._pages.fits(needs)

    def num_unread(self, block_ids: Sequence[int]) -> int:
        """How many of these blocks of the first group are free, only their content known."""
        readers = self._num_readers[0]
        return sum(block_id >= 0 and not readers[block_id] for block_id in block_ids)

    def num_sole(self, group: int, block_ids: Sequence[int]) -> int:
        """How many of these blocks have one reader."""
        readers = self._num_readers[group]
        return sum(readers[block_id] == 1 for block_id in block_ids)

    def take(self, group: int, num: int) -> list[int]:
        """Free blocks, each now with one reader. They must be there: see `fits`."""
        if self._cached:
            while self._pages.num_free(group) < num:
                self._evict()
        taken = self._pages.take(group, num)
        readers = self._num_readers[group]
        for block_id in taken:
            readers[block_id] = 1
        self._units_used += num * self._layers[group]
        return taken

    def share(self, group: int, block_ids: Iterable[int]) -> None:
        """Add a reader to each block; a findable block without readers stops being free."""
        readers = self._num_readers[group]
        for block_id in block_ids:
            if not readers[block_id]:
                assert block_id in self._cached, "a free block cannot be shared"
                del self._cached[block_id]
                self._units_used += self._layers[group]
            readers[block_id] += 1

    def release(self, group: int, block_ids: Sequence[int]) -> None:
        """Take a reader from each block. The end of a table becomes free first, its head last."""
        readers, hashes, layers = self._num_readers[group], self._hash_of, self._layers[group]
        for block_id in reversed(block_ids):
            readers[block_id] -= 1
            if not readers[block_id]:
                self._units_used -= layers
                if hashes and block_id in hashes:
                    self._cached[block_id] = None
                else:
                    self._pages.give_back(group, block_id)
            assert readers[block_id] >= 0, "a block was released twice"

    def find(self, block_hash: bytes) -> int | None:
        """The block with this content, if there is one."""
        return self._block_of.get(block_hash)

    def register(self, block_hash: bytes, block_id: int) -> bool:
        """Make a full block findable; whether it is now. The first block of equal content stays
        the one found."""
        if block_hash in self._block_of or block_id in self._hash_of:
            return False
        self._block_of[block_hash] = block_id
        self._hash_of[block_id] = block_hash
        return True

    def forget(self, block_id: int) -> None:
        """Make a block with readers unfindable: it does not hold what was registered."""
        block_hash = self._hash_of.pop(block_id, None)
        if block_hash is not None:
            del self._block_of[block_hash]

    def check_integrity(self, readers: Sequence[Iterable[Sequence[int]]]) -> None:
        """Assert that the books are right for these lists of blocks, by layer group."""
        owned: list[set[int]] = []
        for group, counts in enumerate(self._num_readers):
            expected = [0] * len(counts)
            for block_ids in readers[group]:
                assert len(set(block_ids)) == len(block_ids), "a table names a block twice"
                for block_id in block_ids:
                    expected[block_id] += 1
            assert expected == counts, "reference counts differ from the readers"
            owned.append({block_id for block_id, count in enumerate(counts) if count})
        units = sum(len(ids) * self._layers[group] for group, ids in enumerate(owned))
        assert units == self._units_used, "the memory in use is counted wrong"
        assert not owned[0] & set(self._cached), "a block is free and owned"
        if self._is_uniform:
            owned[0] |= set(self._cached)
        self._pages.check_integrity(owned)
        assert self._block_of == {h: b for b, h in self._hash_of.items()}, "the hashes disagree"
        assert set(self._hash_of) <= owned[0], "a findable block counts as empty"
        assert set(self._cached) <= set(self._hash_of), "a cached block cannot be found"

    def _evict(self) -> None:
        """Free the findable block that has been free the longest."""
        block_id, _ = self._cached.popitem(last=False)
        self.forget(block_id)
        self._pages.give_back(0, block_id)


class UnsearchedBlocks(BlockManager):
    """Books in which nobody looks for content."""

    finds_content = False
