"""The order of the night: priority first, then by policy.

fifo    as they come
length  longest expected output first, so that no long decode is left alone at the end
prefix  requests with the same beginning stand together, otherwise as they come
auto    as prefix, and among neighbours of one level the longest expected output first
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from thothy_batch.plan.chains import I64, Chains, chain_prompts
from thothy_batch.plan.sharing import BLOCK_SIZE
from thothy_batch.records import Request

POLICIES = ("auto", "fifo", "length", "prefix")


def order_requests(
    requests: Sequence[Request],
    policy: str,
    *,
    expected_tokens: Sequence[int] | None = None,
    block_size: int = BLOCK_SIZE,
    chains: Chains | None = None,
) -> list[int]:
    """Positions in `requests` in the order of computation: each once, ties as they come.

    `expected_tokens`: output tokens per request (from history); left out: max_tokens.
    """
    if policy not in POLICIES:
        raise ValueError(f"unknown order {policy!r}: {', '.join(POLICIES)}")
    lowest_first = -_array([request.priority for request in requests])
    if policy == "fifo":
        return _sorted(lowest_first)
    if expected_tokens is None:
        expected_tokens = [request.sampling.max_tokens for request in requests]
    expected = _array(expected_tokens)
    if policy == "length":
        prompt_lens = _array([len(request.prompt_token_ids) for request in requests])
        return _sorted(lowest_first, -expected, -prompt_lens)
    if policy == "prefix":
        expected = np.zeros_like(expected)
    chains = chains or chain_prompts([r.prompt_token_ids for r in requests], block_size)
    return _along_tree(lowest_first, expected, chains)


def _along_tree(lowest_first: I64, expected: I64, chains: Chains) -> list[int]:
    """Walks the tree of shared beginnings, depth first.

    Every node and every request has a rank by (longest expected output below it, first come). A
    request's place is the path of ranks from the root down to itself; paths compare as bytes.
    """
    num = len(expected)
    owners = np.repeat(np.arange(num), np.diff(chains.starts))
    kept, nodes, num_nodes = _branchings(chains, owners)
    owners = owners[kept]
    first = np.full(num_nodes, num, dtype=np.int64)
    np.minimum.at(first, nodes, owners)
    longest = np.zeros(num_nodes, dtype=np.int64)
    np.maximum.at(longest, nodes, expected[owners])

    # Nodes and requests share one row of ranks, so that they can be compared as siblings.
    by_rank = np.lexsort(
        (np.concatenate((first, np.arange(num))), -np.concatenate((longest, expected)))
    )
    ranks = np.empty(num_nodes + num, dtype=np.uint32)
    ranks[by_rank] = np.arange(num_nodes + num, dtype=np.uint32)

    # One path per request: its priority, its nodes from the root down, itself.
    path_lens = np.bincount(owners, minlength=num) + 2
    ends = np.cumsum(path_lens)
    paths = np.empty(int(ends[-1]) if num else 0, dtype=">u4")
    inner = np.ones(len(paths), dtype=bool)
    inner[ends - 1] = inner[ends - path_lens] = False
    paths[ends - path_lens] = lowest_first - lowest_first.min(initial=0)
    paths[ends - 1] = ranks[num_nodes:]
    paths[inner] = ranks[nodes]
    data, bounds = paths.tobytes(), [0, *(ends * 4).tolist()]
    keys = [data[bounds[i] : bounds[i + 1]] for i in range(num)]
    return sorted(range(num), key=keys.__getitem__)


def _branchings(chains: Chains, owners: I64) -> tuple[npt.NDArray[np.bool_], I64, int]:
    """The blocks that matter for the order: which of them, the node of each, number of nodes.

    A block that only its own prompt reads groups nothing; one with as many readers as the block
    before it groups nothing anew.
    """
    _, inverse, readers = np.unique(chains.hashes, return_inverse=True, return_counts=True)
    counts = readers[inverse]
    before = np.zeros_like(counts)
    before[1:] = counts[:-1]
    before[chains.starts[:-1][np.diff(chains.starts) > 0]] = 0
    kept = (counts > 1) & (counts != before)
    nodes, names = np.unique(inverse[kept], return_inverse=True)
    return kept, names, len(nodes)


def _array(values: Sequence[int]) -> I64:
    return np.asarray(values, dtype=np.int64)


def _sorted(*keys: I64) -> list[int]:
    """Positions sorted by the first key, then the second, and so on; stable."""
    return [int(i) for i in np.lexsort(keys[::-1])]
