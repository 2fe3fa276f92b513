"""Prompts of a trace with block ids, where an id stands for a block and everything before it.

Mooncake's traces have blocks of 512 tokens, ServeGen's of 16; the files do not say which.
"""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from thothy_batch.bench.workload import is_length, random_tokens
from thothy_batch.errors import ManifestError
from thothy_batch.records import TokenIds

_SIZES = tuple(2**power for power in range(13))


@dataclass(slots=True)
class TraceBlocks:
    """Generates the tokens of blocks, the same for the same id."""

    block_len: int
    vocab_size: int
    seed: int
    _tokens: "dict[int, array[int]]" = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        path: Path,
        rows: Sequence[object],
        lengths: Sequence[object],
        vocab_size: int,
        seed: int,
    ) -> "TraceBlocks":
        """Find the block length. Raises ManifestError where no length fits all rows."""
        known = list(_block_counts(rows, lengths))
        for size in _SIZES:
            if all(num == -(-length // size) for num, length in known):
                return cls(size, vocab_size, seed)
        raise ManifestError(
            f"{path}: hash_ids do not name the blocks of prompts of prompt_tokens tokens",
            hint="each row needs an id per block of 1, 2, 4, ... 4,096 tokens; or drop the column",
        )

    def prompt(self, ids: object, length: int) -> TokenIds:
        """The prompt of these blocks. Raises ValueError for invalid ids."""
        if not isinstance(ids, list) or not ids or not all(map(_is_id, ids)):
            raise ValueError("hash_ids is not a list of ids")
        prompt = array("i")
        for block in ids:
            prompt += self._block(block)
        return prompt[:length]

    def _block(self, block: int) -> "array[int]":
        if block not in self._tokens:
            rng = np.random.default_rng((self.seed, block))
            self._tokens[block] = random_tokens(rng, self.block_len, self.vocab_size)
        return self._tokens[block]


def _block_counts(rows: Sequence[object], lengths: Sequence[object]) -> Iterator[tuple[int, int]]:
    """Number of ids and prompt length of each row that has both; other rows are refused later."""
    for ids, length in zip(rows, lengths, strict=True):
        if isinstance(ids, list) and ids and is_length(length):
            yield len(ids), length


def _is_id(value: object) -> bool:
    return isinstance(value, int) and value >= 0
