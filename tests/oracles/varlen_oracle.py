"""paged attention by torch's varlen_attn: oracle and baseline for tests and benchmarks on a GPU.

What torch's versions offer (torch.nn.attention.varlen):
- 2.10: no block tables. 2.12 and 2.13: `block_table` with `seqused_k`, keys [B, P, K, D]: the cache
  with P and K transposed, a view. 2.11 was not at hand: the signature decides.
- CUDA alone, float16 and bfloat16. No soft cap. Grouped heads with `enable_gqa`.
- Built in is flash attention 2, which reads blocks of a multiple of 256 slots. An implementation
  that was activated (`activate_flash_attention_impl`) may read others, and may refuse `cu_seq_k`
  beside a block table, which the built-in one wants.
- A window of W positions, the query's own included, is (W - 1, 0). Causal is aligned to the end.
"""

import inspect

import torch
from torch.nn.attention import varlen

from thothy_kernels.paged_attention import AttentionMetadata

_BLOCK_MULTIPLE = 256


def reason_unavailable(block_size: int = _BLOCK_MULTIPLE) -> str | None:
    """Why varlen_paged_attention cannot run here over blocks of `block_size`; None: it can."""
    if not torch.cuda.is_available():
        return "torch's varlen_attn needs a CUDA device"
    if "block_table" not in inspect.signature(varlen.varlen_attn).parameters:
        return f"varlen_attn of torch {torch.__version__} has no block tables"
    if _is_built_in() and block_size % _BLOCK_MULTIPLE:
        return f"torch's flash attention reads blocks of {_BLOCK_MULTIPLE} slots, not {block_size}"
    return None


def varlen_paged_attention(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    meta: AttentionMetadata,
    scale: float,
) -> torch.Tensor:
    """Like `paged_attention` without a soft cap, and without a copy of the cache.

    q [T, H, D], k_cache and v_cache [B, K, P, D], float16 or bfloat16 on a CUDA device, as is
    `meta`. Returns [T, H, D]. Reads slots before a window in the first block that it sees: they
    must be finite. Does not wait for the device. Raises RuntimeError with `reason_unavailable`.
    """
    reason = reason_unavailable(k_cache.shape[2])
    if reason is not None:
        raise RuntimeError(reason)
    num_seqs, max_blocks = meta.block_tables.shape
    max_q = meta.max_query_len
    if max_q == 1 and q.shape[0] != num_seqs:
        max_q = 2  # with 1 it takes row s for the query of sequence s, and some have none here
    cu_seq_k = None
    if _is_built_in():
        cu_seq_k = torch.nn.functional.pad(meta.context_lens.cumsum(0, dtype=torch.int32), (1, 0))
    out = varlen.varlen_attn(
        q,
        k_cache.transpose(1, 2),
        v_cache.transpose(1, 2),
        meta.cu_seqlens,
        cu_seq_k,
        max_q,
        max_blocks * k_cache.shape[2],
        scale=scale,
        window_size=(-1 if meta.window is None else meta.window - 1, 0),
        enable_gqa=True,
        seqused_k=meta.context_lens,
        block_table=meta.block_tables,
    )
    assert isinstance(out, torch.Tensor)  # without return_aux
    return out


def _is_built_in() -> bool:
    current = getattr(torch.nn.attention, "current_flash_attention_impl", None)
    return current is None or current() is None
