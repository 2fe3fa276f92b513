"""Block manager: reference counts over the page pool, and content hashes of full blocks.

Never touches the memory itself. A block has one reader per block table or pinned prefix that lists
it; a block without readers is free. Where all layers keep the same tokens, a free block with a
registered hash stays findable until it is evicted, least recently freed first. Blocks without a
registered hash are allocated before any is evicted.
"""

from collections import OrderedDict, abc
from collections.abc import Iterable

from thothy_batch.engine.core.kv_layout import KVLayout
from thothy_batch.engine.kv_cache.page_pool import PagePool


class BlockManager:
    """Bookkeeping of a pool of `num_pages` large pages, divided as `layout` says.

    `prefix_lookup` False: no block is looked up by its content, so none needs hashing.
    """

    def __init__(self, layout: KVLayout, num_pages: int, *, prefix_lookup: bool = True) -> None:
        self.layout = layout
        per_page = layout.blocks_per_page
        self._pages = PagePool(num_pages, per_page)
        self._num_readers = [[0] * (num_pages * number) for number in per_page]
        self._is_uniform = len(per_page) == 1
        # A content hash stands for all layers: they must all keep the whole context.
        is_full = self._is_uniform and layout.groups[0].window is None
        self.has_prefix_lookup = prefix_lookup and is_full
        self._cached: OrderedDict[int, None] = OrderedDict()  # free, findable, oldest first
        self._hash_of: dict[int, bytes] = {}
        self._block_of: dict[bytes, int] = {}
        self._units_used = 0
        self._layers = [len(group.layers) for group in layout.groups]

    @property
    def num_blocks(self) -> int:
        """Size of the pool, in blocks of all layers."""
        return self._pages.num_pages * self.layout.page_units // self.layout.num_layers

    @property
    def num_used(self) -> int:
        """Memory with readers, in blocks of all layers, rounded up."""
        return -(-self._units_used // self.layout.num_layers)

    def fits(self, needs: abc.Sequence[int]) -> bool:
        """Return whether these numbers of blocks, one per layer group, can be allocated."""
        if self._is_uniform:
            return needs[0] <= self._pages.num_free(0) + len(self._cached)
        return self._pages.fits(needs)

    def num_unread(self, block_ids: abc.Sequence[int]) -> int:
        """Count the blocks of the first group without a reader: free, but findable."""
        readers = self._num_readers[0]
        return sum(block_id >= 0 and not readers[block_id] for block_id in block_ids)

    def num_sole(self, group: int, block_ids: abc.Sequence[int]) -> int:
        """Count the blocks with exactly one reader."""
        readers = self._num_readers[group]
        return sum(readers[block_id] == 1 for block_id in block_ids)

    def allocate(self, group: int, num: int) -> list[int]:
        """Allocate blocks, each with one reader. They must be free: see `fits`."""
        if self._cached:
            while self._pages.num_free(group) < num:
                self._evict()
        block_ids = self._pages.allocate(group, num)
        readers = self._num_readers[group]
        for block_id in block_ids:
            readers[block_id] = 1
        self._units_used += num * self._layers[group]
        return block_ids

    def share(self, group: int, block_ids: Iterable[int]) -> None:
        """Add a reader to each block; a findable block without readers stops being free."""
        readers = self._num_readers[group]
        for block_id in block_ids:
            if not readers[block_id]:
                assert block_id in self._cached, "a free block cannot be shared"
                del self._cached[block_id]
                self._units_used += self._layers[group]
            readers[block_id] += 1

    def release(self, group: int, block_ids: abc.Sequence[int]) -> None:
        """Remove a reader from each block. The end of a table is freed before its head."""
        readers, hashes, layers = self._num_readers[group], self._hash_of, self._layers[group]
        for block_id in reversed(block_ids):
            readers[block_id] -= 1
            if not readers[block_id]:
                self._units_used -= layers
                if hashes and block_id in hashes:
                    self._cached[block_id] = None
                else:
                    self._pages.free(group, block_id)
            assert readers[block_id] >= 0, "a block was released twice"

    def find(self, block_hash: bytes) -> int | None:
        """Return the block with this content, if one is registered."""
        return self._block_of.get(block_hash)

    def register(self, block_hash: bytes, block_id: int) -> bool:
        """Make a full block findable; return False if its content already is.

        Among blocks of equal content the first one stays registered.
        """
        if block_hash in self._block_of or block_id in self._hash_of:
            return False
        self._block_of[block_hash] = block_id
        self._hash_of[block_id] = block_hash
        return True

    def unregister(self, block_id: int) -> None:
        """Make a block with readers unfindable: it does not hold the registered content."""
        block_hash = self._hash_of.pop(block_id, None)
        if block_hash is not None:
            del self._block_of[block_hash]

    def check_integrity(self, readers: abc.Sequence[Iterable[abc.Sequence[int]]]) -> None:
        """Assert that the bookkeeping matches these lists of blocks, by layer group."""
        owned: list[set[int]] = []
        for group, counts in enumerate(self._num_readers):
            expected = [0] * len(counts)
            for block_ids in readers[group]:
                assert len(set(block_ids)) == len(block_ids), "a table lists a block twice"
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
        """Evict the findable block that has been free the longest."""
        block_id, _ = self._cached.popitem(last=False)
        self.unregister(block_id)
        self._pages.free(0, block_id)
