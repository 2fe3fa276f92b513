"""Which block is whose: ids, reference counts, the prefix cache. Never touches the memory itself.

A block has as many readers as sequences have it in their tables. A block without readers is free;
if its content is known by hash it stays findable until it is taken for something else, the
longest free first. Blocks that hold nothing findable are taken before those that do.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence


class BlockManager:
    """The pool's books. Decisions are made in a `BlockDraft` and put into force by `apply`."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._num_readers = [0] * num_blocks
        self._empty = list(range(num_blocks - 1, -1, -1))  # a stack: low ids go first
        self._cached: OrderedDict[int, None] = OrderedDict()  # free, findable, oldest first
        self._hash_of: dict[int, bytes] = {}
        self._block_of: dict[bytes, int] = {}

    @property
    def num_free(self) -> int:
        return len(self._empty) + len(self._cached)

    @property
    def num_used(self) -> int:
        return self.num_blocks - self.num_free

    def draft(self) -> "BlockDraft":
        """A scheduling pass's view, in which blocks can be taken without taking them."""
        return BlockDraft(self)

    def share(self, block_ids: Iterable[int]) -> None:
        """Add a reader to blocks that have one already (a fork)."""
        for block_id in block_ids:
            assert self._num_readers[block_id] > 0, "a free block cannot be shared"
            self._num_readers[block_id] += 1

    def release(self, block_ids: Sequence[int]) -> None:
        """Take a reader from each block of a table. Its end becomes free first, its head last."""
        for block_id in reversed(block_ids):
            self._num_readers[block_id] -= 1
            assert self._num_readers[block_id] >= 0, "a block was released twice"
            if not self._num_readers[block_id]:
                self._put_back(block_id)

    def register(self, block_hash: bytes, block_id: int) -> None:
        """Make a full block findable. The first block of equal content stays the one found."""
        if block_hash not in self._block_of and block_id not in self._hash_of:
            self._block_of[block_hash] = block_id
            self._hash_of[block_id] = block_hash

    def apply(self, draft: "BlockDraft") -> None:
        """Put a draft into force. Only valid on the state that it was made from."""
        for block_id in draft.taken:
            self._forget(block_id)
        for block_id, num_readers in draft.num_readers.items():
            before = self._num_readers[block_id]
            self._num_readers[block_id] = num_readers
            if not before and num_readers:
                self._cached.pop(block_id, None)
        if draft.num_empty_taken:
            del self._empty[-draft.num_empty_taken :]
        for block_id in draft.freed:
            if not self._num_readers[block_id] and block_id not in self._cached:
                self._put_back(block_id)
        for block_hash, block_id in draft.registered.items():
            self.register(block_hash, block_id)

    def abandon(self, draft: "BlockDraft") -> None:
        """Drop a draft whose step failed. The step may have written into the free blocks that the
        draft took: what they held cannot be found any more. Nothing else changes."""
        for block_id in draft.taken:
            if block_id in self._cached:
                del self._cached[block_id]
                self._empty.append(block_id)
            self._forget(block_id)

    def check_integrity(self, tables: Iterable[Sequence[int]]) -> None:
        """Assert that the books are right for these block tables, one per sequence."""
        num_readers = [0] * self.num_blocks
        for table in tables:
            assert len(set(table)) == len(table), "a table names a block twice"
            for block_id in table:
                num_readers[block_id] += 1
        assert num_readers == self._num_readers, "reference counts differ from the readers"
        free = [*self._empty, *self._cached]
        owned = {block_id for block_id, count in enumerate(num_readers) if count}
        assert len(free) == len(set(free)), "a block is free twice"
        assert not owned & set(free), "a block is free and owned"
        assert len(owned) + len(free) == self.num_blocks, "a block is lost"
        assert self._block_of == {h: b for b, h in self._hash_of.items()}, "the hashes disagree"
        assert not set(self._empty) & set(self._hash_of), "a findable block counts as empty"
        assert set(self._cached) <= set(self._hash_of), "a cached block cannot be found"

    def _put_back(self, block_id: int) -> None:
        if block_id in self._hash_of:
            self._cached[block_id] = None
        else:
            self._empty.append(block_id)

    def _forget(self, block_id: int) -> None:
        block_hash = self._hash_of.pop(block_id, None)
        if block_hash is not None:
            del self._block_of[block_hash]


class BlockDraft:
    """Blocks taken, shared and released by one scheduling pass, on top of an untouched manager.

    Reads the manager's books, writes only its own. Throwing it away undoes everything.
    """

    def __init__(self, manager: BlockManager) -> None:
        self._manager = manager
        self.num_readers: dict[int, int] = {}  # of blocks where it changes
        self.taken: dict[int, None] = {}  # in order; what they held is forgotten
        self.freed: list[int] = []  # in order; some may have been taken or shared again
        self.registered: dict[bytes, int] = {}
        self.num_empty_taken = 0
        self.num_free = manager.num_free
        self._cached = iter(manager._cached)
        self._next_freed = 0

    def readers(self, block_id: int) -> int:
        return self.num_readers.get(block_id, self._manager._num_readers[block_id])

    def find(self, block_hash: bytes) -> int | None:
        """The block with this content, computed before or scheduled earlier in this pass."""
        block_id = self.registered.get(block_hash)
        if block_id is None:
            block_id = self._manager._block_of.get(block_hash)
            if block_id in self.taken:
                return None
        return block_id

    def is_findable(self, block_id: int) -> bool:
        """Whether others may come to read this block for its content."""
        return block_id in self._manager._hash_of

    def share(self, block_id: int) -> None:
        """Add a reader; a free block stops being free."""
        readers = self.readers(block_id)
        self.num_free -= not readers
        self.num_readers[block_id] = readers + 1

    def release(self, block_ids: Sequence[int]) -> None:
        """Take a reader from each block of a table, the end first."""
        for block_id in reversed(block_ids):
            readers = self.readers(block_id) - 1
            assert readers >= 0, "a block was released twice"
            self.num_readers[block_id] = readers
            if not readers:
                self.freed.append(block_id)
                self.num_free += 1

    def take(self) -> int:
        """A free block, now with one reader. There must be one: see `num_free`."""
        assert self.num_free > 0, "no free block"
        block_id = self._next_free()
        self.taken[block_id] = None
        self.num_readers[block_id] = 1
        self.num_free -= 1
        return block_id

    def register(self, block_hash: bytes, block_id: int) -> None:
        """Make a block findable that this pass's step fills."""
        if self.find(block_hash) is None:
            self.registered[block_hash] = block_id

    def _next_free(self) -> int:
        empty = self._manager._empty
        if self.num_empty_taken < len(empty):
            self.num_empty_taken += 1
            return empty[-self.num_empty_taken]
        for block_id in self._cached:
            if block_id not in self.num_readers:  # else shared meanwhile
                return block_id
        while True:
            block_id = self.freed[self._next_freed]
            self._next_freed += 1
            if not self.readers(block_id) and block_id not in self.taken:
                return block_id
