"""Page pool: free memory of the KV pool, as large pages split into blocks of one layer group."""

from collections import abc


class PagePool:
    """Allocates block ids. A page whose blocks are all free can serve any group again.

    Block b of a group lies in page b // blocks_per_page[group].
    """

    def __init__(self, num_pages: int, blocks_per_page: abc.Sequence[int]) -> None:
        self.num_pages = num_pages
        self.blocks_per_page = tuple(blocks_per_page)
        self._pages = list(range(num_pages - 1, -1, -1))  # a stack: low ids are allocated first
        # Free blocks of partly free pages, by group and page.
        self._open: tuple[dict[int, list[int]], ...] = tuple({} for _ in self.blocks_per_page)
        self._num_open = [0] * len(self.blocks_per_page)

    def num_free(self, group: int) -> int:
        """Return the blocks the group could allocate if no other group allocated any."""
        return self._num_open[group] + len(self._pages) * self.blocks_per_page[group]

    def fits(self, needs: abc.Sequence[int]) -> bool:
        """Return whether these numbers of blocks, one per group, can be allocated together."""
        pages = 0
        for group, need in enumerate(needs):
            beyond = need - self._num_open[group]
            if beyond > 0:
                pages += -(-beyond // self.blocks_per_page[group])
        return pages <= len(self._pages)

    def allocate(self, group: int, num: int) -> list[int]:
        """Allocate `num` blocks; they must be free.

        Splits no more pages than `fits` counts, and uses those whole where it can, so that blocks
        allocated together are later freed together.
        """
        per_page = self.blocks_per_page[group]
        if per_page == 1:
            assert num <= len(self._pages), "no free block"
            first = len(self._pages) - num
            block_ids = self._pages[first:]
            del self._pages[first:]
            block_ids.reverse()
            return block_ids
        num_pages = -(-max(0, num - self._num_open[group]) // per_page)
        block_ids = []
        for _ in range(min(num_pages, num // per_page)):
            page = self._pages.pop()
            block_ids += range(page * per_page, (page + 1) * per_page)
        block_ids += [self._allocate_one(group) for _ in range(num - len(block_ids))]
        return block_ids

    def free(self, group: int, block_id: int) -> None:
        """Return a block to the pool."""
        per_page = self.blocks_per_page[group]
        if per_page == 1:
            self._pages.append(block_id)
            return
        page = block_id // per_page
        blocks = self._open[group].setdefault(page, [])
        blocks.append(block_id)
        self._num_open[group] += 1
        if len(blocks) == per_page:
            del self._open[group][page]
            self._num_open[group] -= per_page
            self._pages.append(page)

    def check_integrity(self, owned: abc.Sequence[set[int]]) -> None:
        """Assert that every page is free, or split into blocks that are free or owned."""
        pages = set(self._pages)
        assert len(pages) == len(self._pages), "a page is free twice"
        for group, per_page in enumerate(self.blocks_per_page):
            if per_page == 1:
                used = set(owned[group])
                assert not used & pages, "a block is free and owned"
                pages |= used
                continue
            free = [block_id for blocks in self._open[group].values() for block_id in blocks]
            assert len(free) == self._num_open[group] == len(set(free)), "a block is free twice"
            assert not owned[group] & set(free), "a block is free and owned"
            split = {block_id // per_page for block_id in owned[group]}
            assert set(self._open[group]) <= split, "a wholly free page is still split"
            assert len(free) + len(owned[group]) == len(split) * per_page, "a block is lost"
            assert not split & pages, "a page has two uses"
            pages |= split
        assert len(pages) == self.num_pages, "a page is lost"

    def _allocate_one(self, group: int) -> int:
        pages = self._open[group]
        if not pages:
            assert self._pages, "no free block"
            page, per_page = self._pages.pop(), self.blocks_per_page[group]
            pages[page] = list(range((page + 1) * per_page - 1, page * per_page - 1, -1))
            self._num_open[group] += per_page
        page, blocks = next(reversed(pages.items()))
        self._num_open[group] -= 1
        block_id = blocks.pop()
        if not blocks:
            del pages[page]
        return block_id
