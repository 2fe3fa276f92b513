"""KV layout: division of the pool among layer groups that keep different tokens. No tensors.

The pool is an array of units; a unit holds one layer's keys and values of `block_size` tokens. A
block of a layer group is one unit per layer of the group, adjacent in memory. Models whose layers
all keep the whole context have one group. Models with full and windowed layers allocate the pool in
large pages; the page size is the least common multiple of the groups' block sizes, and each page is
split into blocks of one group (Jenga, arXiv 2503.18292).
"""

import math
from dataclasses import dataclass

from thothy_batch.records import LayerGroup


@dataclass(frozen=True, slots=True)
class KVLayout:
    """Layer groups; a group with full attention comes first. Lengths in tokens."""

    groups: tuple[LayerGroup, ...]
    block_size: int

    @property
    def num_layers(self) -> int:
        return sum(len(group.layers) for group in self.groups)

    @property
    def page_units(self) -> int:
        """Units of a large page: the least common multiple of the groups' layer counts."""
        return math.lcm(*(len(group.layers) for group in self.groups))

    @property
    def blocks_per_page(self) -> tuple[int, ...]:
        """Blocks per large page, by group."""
        return tuple(self.page_units // len(group.layers) for group in self.groups)

    def num_pages(self, num_blocks: int) -> int:
        """Return the large pages that fit the memory of `num_blocks` blocks of all layers."""
        return num_blocks * self.num_layers // self.page_units

    def blocks_of_pages(self, num_pages: int) -> int:
        """Return the fewest blocks of all layers whose memory holds that many pages."""
        return -(-num_pages * self.page_units // self.num_layers)

    def blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)

    def window_blocks(self, window: int, num_new: int = 1) -> int:
        """Return the most blocks that `num_new` consecutive tokens see through a window."""
        return 1 + -(-(window + num_new - 2) // self.block_size)

    def needs(self, prompt_len: int, length: int, max_len: int, samples: int, step: int) -> "Needs":
        """Return the blocks of each group that admission allocates to a request without sharing.

        `length`: tokens that full layers reserve, at most `max_len`; `step`: most of its tokens
        computed in one step. Full prompt blocks count once for all samples.
        """
        return tuple(
            self._full_need(prompt_len, length, samples)
            if group.window is None
            else self._window_need(group.window, prompt_len, max_len, samples, step)
            for group in self.groups
        )

    def pages_for(self, needs: "Needs") -> int:
        """Return the large pages of an empty pool that hold these blocks."""
        per_page = self.blocks_per_page
        return sum(-(-need // per_page[g]) for g, need in enumerate(needs))

    def smallest_pool(self, prompt_len: int, max_tokens: int, samples: int, step: int) -> int:
        """Return the fewest blocks of all layers in which such a request can run."""
        max_len = prompt_len + max_tokens
        needs = self.needs(prompt_len, max_len, max_len, samples, step)
        return self.blocks_of_pages(self.pages_for(needs))

    def fork_need(self, group: int, prompt_len: int, length: int, max_len: int) -> int:
        """Return the blocks of a further sample: those after the prompt's full blocks."""
        window = self.groups[group].window
        if window is None:
            return self.blocks_for(length) - prompt_len // self.block_size
        rest = self.blocks_for(max_len) - prompt_len // self.block_size
        return min(rest, self.window_blocks(window))

    def _full_need(self, prompt_len: int, length: int, samples: int) -> int:
        first = self.blocks_for(length)
        return first + (samples - 1) * (first - prompt_len // self.block_size)

    def _window_need(
        self, window: int, prompt_len: int, max_len: int, samples: int, step: int
    ) -> int:
        first = min(self.blocks_for(max_len), self.window_blocks(window, max(step, 1)))
        if samples == 1:
            return first
        # A shared block is freed by its last sample only, so every sample counts its own window.
        rest = self.blocks_for(max_len) - prompt_len // self.block_size
        return first + samples * min(rest, self.window_blocks(window))


Needs = tuple[int, ...]
