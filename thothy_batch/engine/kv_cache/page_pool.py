"""Free memory of the KV pool: large pages, each cut into blocks of one layer group."""

from collections.abc import Sequence


class PagePool:
    """Hands out block ids. A page whose blocks are all given back serves any group again.

    Block b of a group lies in page b // blocks_per_page[group].
    """

    def __init__(self, num_pages: int, blocks_per_page: Sequence[int]) -> None:
        self.num_pages = num_pages
        self.blocks_per_page = tuple(blocks_per_page)
        self._pages = list(range(num_pages - 1, -1, -1))  # a stack: low ids go first
        # Pages that are partly free: their free blocks.
        self._open: tuple[dict[int, list[int]], ...] = tuple({} for _ in self.blocks_per_page)
        self._num_open = [0] * len(self.blocks_per_page)

    @property
    def num_free_pages(self) -> int:
        """Pages of which nothing is taken."""
        return len(self._pages)

    def num_free(self, group: int) -> int:
        """Blocks that the group could take if no other took any."""
        return self._num_open[group] + len(self._pages) * self.blocks_per_page[group]

    def fits(self, needs: Sequence[int]) -> bool:
        """Whether these numbers of blocks, one per group, can be taken together."""
        pages = 0
        for group, need in enumerate(needs):
            beyond = need - self._num_open[group]
            if beyond > 0:
                pages += -(-beyond // self.blocks_per_page[group])
        return pages <= len(self._pages)

    def take(self, group: int, num: int) -> list[int]:
        """That many blocks, which must be there. No more pages are cut than `fits` counts; of them
        whole ones first, so that what one request takes comes to be given back together."""
        per_page = self.blocks_per_page[group]
        if per_page == 1:
            assert num <= len(self._pages), "no free block"
            first = len(self._pages) - num
            taken = self._pages[first:]
            del self._pages[first:]
            taken.reverse()
            return taken
        num_pages = -(-max(0, num - self._num_open[group]) // per_page)
        taken = []
        for _ in range(min(num_pages, num // per_page)):
            page = self._pages.pop()
            taken += range(page * per_page, (page + 1) * per_page)
        taken += [self._take_one(group) for _ in range(num - len(taken))]
        return taken

    def give_back(self, group: int, block_id: int) -> None:
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

    def free_blocks(self, group: int) -> list[int]:
        """The free blocks of pages that belong to the group, for checks."""
        if self.blocks_per_page[group] == 1:
            return list(self._pages)
        return [block_id for blocks in self._open[group].values() for block_id in blocks]

    def check_integrity(self, owned: Sequence[set[int]]) -> None:
        """Assert that every page is free, or cut into blocks that are free or owned."""
        pages = set(self._pages)
        assert len(pages) == len(self._pages), "a page is free twice"
        for group, per_page in enumerate(self.blocks_per_page):
            if per_page == 1:
                used = set(owned[group])
                assert not used & pages, "a block is free and owned"
                pages |= used
                continue
            free = self.free_blocks(group)
            assert len(free) == self._num_open[group] == len(set(free)), "a block is free twice"
            assert not owned[group] & set(free), "a block is free and owned"
            cut = {block_id // per_page for block_id in owned[group]}
            assert set(self._open[group]) <= cut, "a page that is wholly free is still cut"
            assert len(free) + len(owned[group]) == len(cut) * per_page, "a block is lost"
            assert not cut & pages, "a page has two uses"
            pages |= cut
        assert len(pages) == self.num_pages, "a page is lost"

    def _take_one(self, group: int) -> int:
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
