"""The order of a run's requests: by priority, then by policy.

fifo    in input order
length  longest expected output first, so that no long decode is left alone at the end
prefix  depth first through the prefix tree, siblings in input order
auto    depth first, siblings with the longest expected output first; if the time is too short for
        all, the cheapest artifact first

Mixing compute-heavy and memory-heavy subtrees with two cursors was measured: it loses more at the
end of a run than it gains before (tests/bench/LOG.md).

The engine admits strictly in this order, so no request is bypassed and none starves. In depth-first
order, the prefixes pinned for later readers lie on one path of the tree.
"""

import numpy as np
import numpy.typing as npt

from thothy_batch.choices import ORDERS
from thothy_batch.plan.block_hashes import I64
from thothy_batch.plan.prefix_tree import PrefixTree

POLICIES = ORDERS
Floats = npt.NDArray[np.float64]


def plain_order(levels: I64, *keys: I64) -> list[int]:
    """Return positions by priority, highest first, then by each key, lowest first. Stable."""
    return [int(i) for i in np.lexsort((*keys[::-1], -levels))]


def tree_order(levels: I64, tree: PrefixTree, weights: Floats, *, mean: bool = False) -> list[int]:
    """Return positions by priority, then depth first; heavier siblings first, then input order.

    A subtree weighs as much as its heaviest request or, with `mean`, as its requests on average.
    Nodes and requests share one ranking; a request sorts by the path of ranks from the root to
    itself, compared as bytes. Held prefixes do not affect the order.
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

    # Nodes and requests share one ranking, so that siblings of both sorts compare.
    by_rank = np.lexsort(
        (np.concatenate((first, np.arange(num))), -np.concatenate((node_weights, weights)))
    )
    ranks = np.empty(num_nodes + num, dtype=np.uint32)
    ranks[by_rank] = np.arange(num_nodes + num, dtype=np.uint32)

    # One path per request: its priority, its nodes from the root down, then itself.
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
