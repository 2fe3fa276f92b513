"""Attention metadata of a batch, as tensors on the host."""

import torch

from thothy_batch.engine.execution.batch import Batch
from thothy_kernels.paged_attention import AttentionMetadata


def host_metadata(batch: Batch, g: int, window: int | None) -> AttentionMetadata:
    """Wrap the batch's arrays for the layers of group `g`; nothing is copied."""
    return AttentionMetadata(
        cu_seqlens=torch.from_numpy(batch.cu_seqlens),
        context_lens=torch.from_numpy(batch.context_lens),
        block_tables=torch.from_numpy(batch.block_tables[g]),
        max_query_len=batch.max_query_len,
        window=window,
        # Through a window each sequence sees a different part of a shared prefix.
        shared=torch.from_numpy(batch.shared) if window is None else None,
    )
