"""Counts the prompt tokens that prefix sharing saves."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from thothy_batch.plan.block_hashes import BlockHashes, chain_prompts
from thothy_batch.records import TokenIds

BLOCK_SIZE = 32


@dataclass(frozen=True, slots=True)
class SharingStats:
    """Token counts with every shared block computed once, beside those without sharing."""

    num_prompts: int
    prompt_tokens: int
    unique_tokens: int  # computed if every shared block is computed once
    num_blocks: int  # full blocks of all prompts
    num_unique_blocks: int
    num_shared_blocks: int  # distinct blocks with at least two readers
    max_readers: int  # prompts that contain the most common block
    block_size: int

    @property
    def shared_fraction(self) -> float:
        """Share of the prompt tokens that sharing saves."""
        return 1 - self.unique_tokens / self.prompt_tokens if self.prompt_tokens else 0.0

    def as_json(self) -> dict[str, object]:
        """Return the counts and the fraction as plain values."""
        return {**asdict(self), "shared_fraction": round(self.shared_fraction, 4)}


def sharing_stats(
    prompts: Sequence[TokenIds], *, block_size: int = BLOCK_SIZE, chains: BlockHashes | None = None
) -> SharingStats:
    """Count shared blocks at the beginning of prompts. `chains`: block hashes, if computed."""
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
