"""Checks of prefix groups, `AttentionMetadata.shared`: sequences that share blocks."""

import numpy as np


def check_shared(shared: np.ndarray, num_queries: np.ndarray, context_lens: np.ndarray) -> None:
    """ValueError unless the rows (first, end, start, stop) of shared follow the contract.

    shared int32 [N, 4]; num_queries, context_lens int32 [S].
    """
    op, last = "AttentionMetadata: shared", -1
    levels: dict[int, list[tuple[int, int]]] = {}
    for first, end, start, stop in shared.tolist():
        row = [first, end, start, stop]
        if not (last <= first < end <= len(num_queries) and 0 <= start < stop):
            raise ValueError(f"{op}: {row} is not (first, end, start, stop) in order")
        if (num_queries[first:end] < 1).any():
            raise ValueError(f"{op}: {row} holds a sequence without a query")
        if (context_lens[first:end] - num_queries[first:end] < stop).any():
            raise ValueError(f"{op}: {row} reaches beyond the positions before one of its queries")
        for seq in range(first, end):
            others = levels.setdefault(seq, [])
            if len(others) > 1 or any(start < b and a < stop for a, b in others):
                raise ValueError(f"{op}: {row} overlaps with others of sequence {seq}")
            others.append((start, stop))
        last = first


def check_tables(shared: np.ndarray, tables: np.ndarray, block_size: int) -> None:
    """ValueError unless the sequences of each group have the same blocks at its positions.

    shared int32 [N, 4]; tables int32 [S, M].
    """
    for first, end, start, stop in shared.tolist():
        if start % block_size or stop % block_size:
            raise ValueError(
                f"paged_attention: shared positions {start} .. {stop} are no whole blocks of "
                f"{block_size}"
            )
        part = tables[first:end, start // block_size : stop // block_size]
        if (part != part[:1]).any():
            raise ValueError(
                f"paged_attention: sequences {first} .. {end} differ in the blocks of positions "
                f"{start} .. {stop}"
            )
