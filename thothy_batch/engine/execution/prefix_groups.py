"""Prefix groups: sequences of a decode batch that read a shared prefix once, on up to two levels.

Sequences with a common path are adjacent. Their tree has any depth (system text, document, samples
of one prompt); attention supports two levels, chosen to minimize the KV that is read more than once
(BatchLLM, arXiv 2412.03594, does the same with one level).
"""

from collections import abc
from collections.abc import Iterator
from dataclasses import dataclass, field

from thothy_batch.engine.core.sequence import Sequence

# A sequence's prefixes, shortest first: the block ids each one adds, and its end in tokens.
Path = tuple[tuple[bytes, int], ...]
# (first, end, start, stop): rows [first, end) read positions [start, stop) from the same blocks.
Group = tuple[int, int, int, int]


def prefix_path(seq: Sequence, block_size: int) -> Path:
    """Return the prefixes that a decoding sequence may share with others, identified by blocks.

    They are its planned prefixes, and its prompt, which all samples share.
    """
    state = seq.state
    ends = [prefix.end // block_size for prefix in state.prefixes]
    if state.request.num_samples > 1:
        full = seq.prompt_len // block_size
        ends += [full] if full > (ends[-1] if ends else 0) else []
    table = seq.tables[0]
    return tuple(
        (table[start:end].tobytes(), end * block_size)
        for start, end in zip([0, *ends], ends, strict=False)
    )


@dataclass(slots=True)
class _Node:
    first: int
    end: int
    position: int  # end of the shared prefix
    children: list["_Node"] = field(default_factory=list)

    def saved(self, start: int) -> int:
        """Return the positions saved if this node's rows read from `start` on only once."""
        return (self.end - self.first - 1) * (self.position - start)


def attention_groups(paths: abc.Sequence[Path]) -> list[Group]:
    """Return the groups of rows with these paths, by first row, a nested group after its outer.

    Positions are in tokens.
    """
    groups: list[Group] = []
    for root in _trees(paths, 0, len(paths), 0):
        groups += _two_levels(root)[1]
    return groups


def _trees(paths: abc.Sequence[Path], first: int, end: int, depth: int) -> Iterator[_Node]:
    """Yield a node per run of two rows or more in [first, end) that share a prefix at `depth`."""
    row = first
    while row < end:
        if len(paths[row]) <= depth:
            row += 1
            continue
        name, position = paths[row][depth]
        last = row + 1
        while last < end and len(paths[last]) > depth and paths[last][depth][0] == name:
            last += 1
        if last - row > 1:
            yield _Node(row, last, position, list(_trees(paths, row, last, depth + 1)))
        row = last


def _one_level(node: _Node, start: int) -> tuple[int, list[Group]]:
    """Return the most positions saved by one level of groups from `start` on, and the groups."""
    below = [_one_level(child, start) for child in node.children]
    saved = sum(gain for gain, _ in below)
    if node.saved(start) >= saved:
        return node.saved(start), [(node.first, node.end, start, node.position)]
    return saved, [group for _, groups in below for group in groups]


def _two_levels(node: _Node) -> tuple[int, list[Group]]:
    """Return the most positions saved by two levels of groups from position 0, and the groups."""
    inner = [_one_level(child, node.position) for child in node.children]
    outer = [_two_levels(child) for child in node.children]
    here = node.saved(0) + sum(gain for gain, _ in inner)
    below = sum(gain for gain, _ in outer)
    if here >= below:
        groups = [group for _, found in inner for group in found]
        return here, [(node.first, node.end, 0, node.position), *groups]
    return below, [group for _, found in outer for group in found]
