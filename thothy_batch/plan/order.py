"""The order of the night: priority first, then by policy.

fifo    as they come
length  longest expected output first, so that no long decode is left alone at the end
prefix  depth first through the tree of shared beginnings, otherwise as they come
auto    depth first, and among neighbours the longest expected output first; where the time does
        not suffice, the cheapest artifact first

Mixing compute-heavy and memory-heavy subtrees by two cursors was measured and costs more at the end
of a night than it gains before: see tests/bench/LOG.md.

The engine admits strictly in this order, so nobody is overtaken and nobody starves. Depth first,
the prefixes that are kept for readers to come lie on one path of the tree.
"""

import numpy as np
import numpy.typing as npt

from thothy_batch.choices import ORDERS
from thothy_batch.plan.block_hashes import I64
from thothy_batch.plan.prefix_tree import PrefixTree

POLICIES = ORDERS
Floats = npt.NDArray[np.float64]


def plain_order(levels: I64, *keys: I64) -> list[int]:
    """Positions by priority, highest first, then by each of the keys, lowest first; stable."""
    return [int(i) for i in np.lexsort((*keys[::-1], -levels))]


def tree_order(levels: I64, tree: PrefixTree, weights: Floats, *, mean: bool = False) -> list[int]:
    """Positions by priority, then depth first; among neighbours the heaviest first, then as they
    come. A subtree weighs as much as its heaviest request, or with `mean` as they do on average.

    Every node and every request has a rank among all; a request's place is the path of ranks from
    the root down to itself, and paths compare as bytes. Held prefixes do not order anything.
    """
    num = len(levels)
    free = ~tree.is_held
    owners, nodes, num_nodes = tree.owners[free], tree.nodes[free], tree.num_nodes
    first = np.full(num_nodes, num, dtype=np.int64)
    np.minimum.at(first, nodes, owners)
    if mean:
        total = np.bincount(nodes, weights[owners], minlength=num_nodes)
        node_weights = total / np.maximum(np.bincount(nodes, minlength=num_nodes), 1)
    else:
        node_weights = np.full(num_nodes, -np.inf)
        np.maximum.at(node_weights, nodes, weights[owners])

    # Nodes and requests share one row of ranks, so that they can be compared as siblings.
    by_rank = np.lexsort(
        (np.concatenate((first, np.arange(num))), -np.concatenate((node_weights, weights)))
    )
    ranks = np.empty(num_nodes + num, dtype=np.uint32)
    ranks[by_rank] = np.arange(num_nodes + num, dtype=np.uint32)

    # One path per request: its priority, its nodes from the root down, itself.
    path_lens = np.bincount(owners, minlength=num) + 2
    ends = np.cumsum(path_lens)
    paths = np.empty(int(ends[-1]) if num else 0, dtype=">u4")
    inner = np.ones(len(paths), dtype=bool)
    inner[ends - 1] = inner[ends - path_lens] = False
    paths[ends - path_lens] = levels.max(initial=0) - levels
    paths[ends - 1] = ranks[num_nodes:]
    paths[inner] = ranks[nodes]
    data, bounds = paths.tobytes(), [0, *(ends * 4).tolist()]
    keys = [data[bounds[i] : bounds[i + 1]] for i in range(num)]
    return sorted(range(num), key=keys.__getitem__)
