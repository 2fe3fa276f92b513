"""Check of block tables against the pool, for implementations that plan a step on the host."""

import numpy as np

from thothy_kernels.paged_attention import AttentionMetadata


def check_blocks_exist(meta: AttentionMetadata, block_size: int, num_blocks: int) -> None:
    """ValueError if a block that a query attends to is outside the pool. meta is on the CPU."""
    P, B = block_size, num_blocks
    cu, context = meta.cu_seqlens.numpy(), meta.context_lens.numpy()
    tables = meta.block_tables.numpy()
    num_queries = cu[1:] - cu[:-1]
    first = np.zeros_like(context)
    if meta.window is not None:
        first = np.maximum(0, context - num_queries + 1 - meta.window) // P
    needed = -(-context // P)
    at = np.arange(tables.shape[1])
    is_needed = (at >= first[:, None]) & (at < needed[:, None]) & (num_queries > 0)[:, None]
    is_bad = (is_needed & ((tables < 0) | (tables >= B))).any(1)
    is_bad |= (needed > tables.shape[1]) & (num_queries > 0)
    if is_bad.any():
        seq = int(is_bad.argmax())
        raise ValueError(
            f"paged_attention: sequence {seq} has a context of {context[seq]} tokens and needs "
            f"{needed[seq]} block ids within 0 .. {B - 1} in its row of block_tables"
        )
