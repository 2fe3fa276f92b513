"""What a batch's layers attend to, as tensors on the host."""

import torch

from thothy_batch.engine.execution.batch import Batch
from thothy_kernels.paged_attention import AttentionMetadata


def host_metadata(batch: Batch, g: int, window: int | None) -> AttentionMetadata:
    """Of the layers of group `g`, over the batch's own arrays."""
    return AttentionMetadata(
        cu_seqlens=torch.from_numpy(batch.cu_seqlens),
        context_lens=torch.from_numpy(batch.context_lens),
        block_tables=torch.from_numpy(batch.block_tables[g]),
        max_query_len=batch.max_query_len,
        window=window,
        # Rows of a group see different parts of it through a window.
        shared=torch.from_numpy(batch.shared) if window is None else None,
    )
