"""Which rows of a decode batch read the same beginning: at most two levels of groups.

Rows with a common path stand side by side. Their tree has any depth (system text, document,
samples of one prompt); attention takes two levels, chosen so that as little KV as possible is read
more than once (BatchLLM, arXiv 2412.03594, does the same with one).
"""

from collections.abc import Iterator
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field

from thothy_batch.engine.core.sequence import Sequence

# A row's path: what each of its beginnings is known by, and where it ends, shortest first.
Path = tuple[tuple[bytes, int], ...]
# Rows first .. end read positions start .. end from the same blocks.
Group = tuple[int, int, int, int]


def row_path(seq: Sequence, block_size: int) -> Path:
    """The beginnings that a decoding row may have in common with others, each known by its blocks:
    planned prefixes, and its own prompt, which it shares with the other samples."""
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
    position: int  # where the shared beginning ends
    children: list["_Node"] = field(default_factory=list)

    def saved(self, start: int) -> int:
        """Positions that are not read again when this node's rows read from `start` on once."""
        return (self.end - self.first - 1) * (self.position - start)


def attention_groups(paths: Seq[Path]) -> list[Group]:
    """The groups of rows whose paths these are, sorted by first row, a nested one after its outer.
    Positions are in tokens."""
    groups: list[Group] = []
    for root in _trees(paths, 0, len(paths), 0):
        groups += _two_levels(root)[1]
    return groups


def _trees(paths: Seq[Path], first: int, end: int, depth: int) -> Iterator[_Node]:
    """The nodes below which rows first .. end part; one for each run of two rows or more."""
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
    """What is saved at best with one level of groups from position `start` on, and how."""
    below = [_one_level(child, start) for child in node.children]
    saved = sum(gain for gain, _ in below)
    if node.saved(start) >= saved:
        return node.saved(start), [(node.first, node.end, start, node.position)]
    return saved, [group for _, groups in below for group in groups]


def _two_levels(node: _Node) -> tuple[int, list[Group]]:
    """The same with two levels from the start."""
    inner = [_one_level(child, node.position) for child in node.children]
    outer = [_two_levels(child) for child in node.children]
    here = node.saved(0) + sum(gain for gain, _ in inner)
    below = sum(gain for gain, _ in outer)
    if here >= below:
        groups = [group for _, found in inner for group in found]
        return here, [(node.first, node.end, 0, node.position), *groups]
    return below, [group for _, found in outer for group in found]
