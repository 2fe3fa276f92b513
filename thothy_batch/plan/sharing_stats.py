"""How much of the night's prompts is the same at the beginning: what is computed once."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from thothy_batch.plan.block_hashes import BlockHashes, chain_prompts
from thothy_batch.records import TokenIds

BLOCK_SIZE = 32


@dataclass(frozen=True, slots=True)
class SharingStats:
    """Token counts with every shared block computed once, against no sharing at all."""

    num_prompts: int
    prompt_tokens: int
    unique_tokens: int  # what has to be computed when every shared block is computed once
    num_blocks: int  # full blocks that could be shared, over all prompts
    num_unique_blocks: int
    num_shared_blocks: int  # different blocks with two readers or more
    max_readers: int  # prompts that begin with the most common block
    block_size: int

    @property
    def shared_fraction(self) -> float:
        """Share of the prompt tokens that need not be computed."""
        return 1 - self.unique_tokens / self.prompt_tokens if self.prompt_tokens else 0.0

    def as_json(self) -> dict[str, object]:
        """The figures of the plan."""
        return {**asdict(self), "shared_fraction": round(self.shared_fraction, 4)}


def sharing_stats(
    prompts: Sequence[TokenIds], *, block_size: int = BLOCK_SIZE, chains: BlockHashes | None = None
) -> SharingStats:
    """Counts shared prompt beginnings by blocks. `chains`: where they are there already."""
    chains = chains or chain_prompts(prompts, block_size)
    readers = np.unique(chains.hashes, return_counts=True)[1]
    num_blocks, num_unique = len(chains.hashes), len(readers)
    prompt_tokens = int(chains.lengths.sum())
    return SharingStats(
        num_prompts=len(chains.lengths),
        prompt_tokens=prompt_tokens,
        unique_tokens=prompt_tokens - (num_blocks - num_unique) * chains.block_size,
        num_blocks=num_blocks,
        num_unique_blocks=num_unique,
        num_shared_blocks=int((readers > 1).sum()),
        max_readers=int(readers.max(initial=0)),
        block_size=chains.block_size,
    )
