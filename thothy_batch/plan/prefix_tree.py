"""The prefix tree of all prompts, and the prefixes held in the pool for the whole run.

A prefix is a maximal run of blocks with the same readers, at least two. Requests of one priority
are ordered depth first, so a prefix is needed during one stretch of the run. Some prefixes are
read in stretches far apart: by several priorities or, like a common system text, by almost all
requests. Some of those are held in the pool for the whole run (see `RetentionBudget`); below them
the order is free. A prefix shared between priorities and not held is computed once per priority.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from thothy_batch.plan.block_hashes import I64, BlockHashes
from thothy_batch.records import SharedPrefix

Bools = npt.NDArray[np.bool_]

# A prefix with fewer readers of one priority is not held: that frees little of the order.
_MIN_READERS_HELD = 8


@dataclass(frozen=True, slots=True)
class RetentionBudget:
    """Limits on the blocks held for the whole run.

    If the pool limits the run, each held block lengthens it by as much as it shrinks the pool."""

    num_blocks: int = 0  # at most
    # Recomputations, one per further priority, that a held block must save.
    min_spared: float = 1.0
    # The part of `num_blocks` for blocks that many requests of one priority read.
    num_common: int | None = None  # None: all


_NOTHING = RetentionBudget()


@dataclass(frozen=True, slots=True)
class PrefixTree:
    """R runs of blocks with the same readers, by prompt and then by depth."""

    chains: BlockHashes
    owners: I64  # [R] prompt of each run
    nodes: I64  # [R] prefix of each run: 0 .. num_nodes
    is_held: Bools  # [R]
    prefixes: list[SharedPrefix]  # by node
    parents: I64  # [num_nodes]; -1: none
    num_computed_blocks: int  # full blocks, each computed once

    @property
    def num_nodes(self) -> int:
        return len(self.prefixes)

    @property
    def computed_tokens(self) -> int:
        """Prompt tokens that must be computed."""
        chains = self.chains
        saved = len(chains.hashes) - self.num_computed_blocks
        return int(chains.lengths.sum()) - saved * chains.block_size

    def own_lengths(self) -> npt.NDArray[np.float64]:
        """Return the tokens of each prompt [N], shared ones divided among their readers."""
        known = np.array([(p.end, p.num_readers) for p in self.prefixes], np.int64).reshape(-1, 2)
        ends, starts = known[self.nodes, 0], np.zeros(len(self.nodes), np.int64)
        follows = self.owners[1:] == self.owners[:-1]
        starts[1:][follows] = ends[:-1][follows]
        spared = (ends - starts) * (1 - 1 / known[self.nodes, 1])
        lengths = self.chains.lengths.astype(np.float64)
        return lengths - np.bincount(self.owners, spared, minlength=len(lengths))

    def paths(self) -> list[tuple[SharedPrefix, ...]]:
        """Return the prefixes of every prompt, shortest first. Equal paths are one object."""
        known: list[tuple[SharedPrefix, ...]] = [()] * self.num_nodes
        ends = [prefix.end for prefix in self.prefixes]
        parents = self.parents.tolist()
        for node in sorted(range(self.num_nodes), key=ends.__getitem__):
            above = known[parents[node]] if parents[node] >= 0 else ()
            known[node] = (*above, self.prefixes[node])
        paths: list[tuple[SharedPrefix, ...]] = [()] * len(self.chains.lengths)
        is_last = np.ones(len(self.owners), np.bool_)
        is_last[:-1] = self.owners[1:] != self.owners[:-1]
        last = np.flatnonzero(is_last)
        for owner, node in zip(self.owners[last].tolist(), self.nodes[last].tolist(), strict=True):
            paths[owner] = known[node]
        return paths


def prefix_tree(chains: BlockHashes, levels: I64, budget: RetentionBudget = _NOTHING) -> PrefixTree:
    """Build the tree of N prompts with priorities `levels` [N].

    Prefixes that are not held are shared within one level only.
    """
    owners = np.repeat(np.arange(len(chains.lengths)), np.diff(chains.starts))
    depths = np.arange(len(owners)) - chains.starts[:-1][owners]
    keys, held = _keys(chains, owners, depths, levels, budget)
    unique, inverse, counts = np.unique(keys, return_inverse=True, return_counts=True)
    readers = counts[inverse]
    before, held_before = np.zeros_like(readers), np.zeros_like(held)
    before[1:], held_before[1:] = readers[:-1], held[:-1]
    first = depths == 0
    begins = (readers > 1) & (first | (readers != before) | (held != held_before))
    at = np.flatnonzero(begins)
    names, nodes = np.unique(inverse[at], return_inverse=True)
    # A run ends where the prompt's next run begins, or at the end of its shared part.
    shared = np.bincount(owners[readers > 1], minlength=len(chains.lengths))
    ends = shared[owners[at]]
    follows = owners[at][1:] == owners[at][:-1]
    ends[:-1][follows] = depths[at][1:][follows]
    parents = np.full(len(names), -1, np.int64)
    parents[nodes[1:][follows]] = nodes[:-1][follows]
    node_ends, node_readers = np.zeros((2, len(names)), np.int64)
    node_ends[nodes], node_readers[nodes] = ends * chains.block_size, readers[at]
    prefixes = [
        SharedPrefix(node, end, num)
        for node, (end, num) in enumerate(
            zip(node_ends.tolist(), node_readers.tolist(), strict=True)
        )
    ]
    return PrefixTree(chains, owners[at], nodes, held[at], prefixes, parents, len(unique))


def _keys(
    chains: BlockHashes, owners: I64, depths: I64, levels: I64, budget: RetentionBudget
) -> tuple[npt.NDArray[np.int64], Bools]:
    """Return a key per block, equal if computed once, and a mask of the held blocks."""
    unique, inverse, counts = np.unique(chains.hashes, return_inverse=True, return_counts=True)
    _, ranks = np.unique(levels, return_inverse=True)
    num_levels = int(ranks.max(initial=0)) + 1
    block_levels = ranks[owners]
    num_of = np.ones(len(unique), np.int64)
    if num_levels > 1:
        pairs = np.unique(inverse * num_levels + block_levels)
        num_of = np.bincount(pairs // num_levels, minlength=len(unique))
    depth_of = np.zeros(len(unique), np.int64)
    depth_of[inverse] = depths
    is_held = np.zeros(len(unique), np.bool_)
    is_held[_held(counts, num_of, depth_of, budget)] = True
    held = is_held[inverse]
    return inverse * num_levels + np.where(held, 0, block_levels), held


def _held(readers: I64, num_levels: I64, depths: I64, budget: RetentionBudget) -> I64:
    """Return the indices of the blocks to hold."""
    found = np.flatnonzero((readers > 1) & ((num_levels > 1) | (readers >= _MIN_READERS_HELD)))
    # A parent sorts before its children: it has at least as many readers and levels.
    found = found[np.lexsort((depths[found], -readers[found], -num_levels[found]))]
    spares = num_levels[found] - 1 >= budget.min_spared
    spared, common = found[spares][: budget.num_blocks], found[~spares]
    common = common[readers[common] >= _MIN_READERS_HELD]
    left = budget.num_blocks - len(spared)
    most = left if budget.num_common is None else min(left, budget.num_common)
    return np.concatenate((spared, common[:most]))
