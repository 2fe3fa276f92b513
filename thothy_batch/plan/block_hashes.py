"""Chained hashes of the full blocks at the beginning of each prompt.

Two prompts have the same hash at block j exactly when their first j + 1 blocks hold the same
tokens, up to 64-bit collisions. A collision can cost a little order but never a result: the engine
compares its own hashes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from thothy_batch.records import TokenIds

U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]

# Tokens hashed per chunk; bounds the memory of their 64-bit copies.
_CHUNK_TOKENS = 1 << 20
_CHAIN_FACTOR = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, slots=True)
class BlockHashes:
    """Block hashes of N prompts: `hashes[starts[i]:starts[i + 1]]` belong to prompt i, in order."""

    hashes: U64
    starts: I64  # [N + 1]
    lengths: I64  # [N] tokens of each prompt
    block_size: int


def chain_prompts(
    prompts: Sequence[TokenIds], block_size: int, kinds: Sequence[int] | None = None
) -> BlockHashes:
    """Hash every full block that another prompt may share, among those of its kind if there are
    several.

    The last token of a prompt is always computed because its logits are needed, so a prompt of
    exactly two blocks has one block to share.
    """
    lengths = np.fromiter((len(ids) for ids in prompts), dtype=np.int64, count=len(prompts))
    num_blocks = np.maximum(lengths - 1, 0) // block_size
    starts = np.zeros(len(prompts) + 1, dtype=np.int64)
    np.cumsum(num_blocks, out=starts[1:])
    hashes = np.empty(int(starts[-1]), dtype=np.uint64)
    coefficients = _coefficients(block_size)
    powers = _powers(int(num_blocks.max(initial=0)))
    for first, last in _chunks(lengths):
        part = _chunk_hashes(prompts[first:last], num_blocks[first:last], coefficients, powers)
        hashes[starts[first] : starts[last]] = part
    if kinds is not None and any(kinds):
        hashes ^= np.repeat(_mix(np.asarray(kinds, np.uint64)), num_blocks)
    return BlockHashes(hashes, starts, lengths, block_size)


def _chunks(lengths: I64) -> Iterator[tuple[int, int]]:
    """Yield (first, last) ranges of prompts that hold about _CHUNK_TOKENS tokens each."""
    first, total = 0, 0
    for i, length in enumerate(lengths.tolist()):
        total += length
        if total >= _CHUNK_TOKENS:
            yield first, i + 1
            first, total = i + 1, 0
    if first < len(lengths):
        yield first, len(lengths)


def _chunk_hashes(
    prompts: Sequence[TokenIds], num_blocks: I64, coefficients: U64, powers: U64
) -> U64:
    block_size = len(coefficients)
    used = (num_blocks * block_size).tolist()
    parts = [
        np.asarray(ids if len(ids) == n else ids[:n], dtype=np.int32)
        for ids, n in zip(prompts, used, strict=True)
    ]
    if not parts or not sum(used):
        return np.empty(0, dtype=np.uint64)
    blocks = np.concatenate(parts).astype(np.uint64).reshape(-1, block_size)
    with np.errstate(over="ignore"):
        block_hashes = _mix((blocks * coefficients).sum(axis=1, dtype=np.uint64))
        # The chain is a polynomial in the depth: a running sum minus the sum before the prompt.
        first_of = np.repeat(np.cumsum(num_blocks) - num_blocks, num_blocks)
        depths = np.arange(len(block_hashes)) - first_of
        sums = np.concatenate(
            ([np.uint64(0)], np.cumsum(block_hashes * powers[depths], dtype=np.uint64))
        )
        chain = sums[1:] - sums[first_of]
        return _mix(chain + powers[depths])


def _mix(x: U64) -> U64:
    """Mix every bit into all 64 (two rounds of xor-shift and multiply)."""
    x = (x ^ (x >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
    x = (x ^ (x >> np.uint64(29))) * np.uint64(0xA0761D6478BD642F)
    return x ^ (x >> np.uint64(32))


def _coefficients(block_size: int) -> U64:
    """Fixed odd random factors, one per position in a block."""
    random = np.random.Generator(np.random.PCG64(20240607))
    return random.integers(0, 2**64, size=block_size, dtype=np.uint64) | np.uint64(1)


def _powers(num: int) -> U64:
    with np.errstate(over="ignore"):
        return np.cumprod(np.full(max(num, 1), _CHAIN_FACTOR), dtype=np.uint64)
