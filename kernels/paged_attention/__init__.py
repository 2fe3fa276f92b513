"""Causal attention of a step's queries over a paged KV cache (Kwon et al. 2023, arXiv:2309.06180).

    out[t, h] = sum_x softmax_x(scale * q[t, h] . k[x, g]) * v[x, g]     g = h // (H // K)

Query j of the n queries of a sequence with context length c is at position p = c - n + j and
attends to positions 0 .. p, or with a sliding window of W to max(0, p - W + 1) .. p. Position x of
sequence s is at offset x % P of block `block_tables[s, x // P]`. With a soft cap c > 0 a score s
becomes c * tanh(s / c) before the softmax.

Softmax runs over fixed spans of `SPAN` positions, counted from position 0 of the sequence. Each
span gives a partial result (maximum, sum, weighted values), and spans are merged in order. A row's
arithmetic therefore depends on its own context alone: in float32 its bits are the same alone and in
any batch, in any chunk of a prompt, with any block size, in any pool. That holds for `reference`
and `cpu`. `triton` merges pieces of any length, cut to keep the device busy, and agrees up to
float32 rounding. So does `flex`, torch's flex_attention: for masks without a kernel, and as a
second oracle.

Sequences of a decode step may share blocks at the same positions, as listed in `shared`. An
implementation may read those blocks once for all of them, span by span, and merge each row's spans
in order. Results do not change; on a CPU no bit changes in float32, nor in bfloat16 with AMX.
"""

from dataclasses import dataclass, field

import torch

from thothy_kernels.contract import FLOAT_DTYPES, Implementations, check_blocks, refuse
from thothy_kernels.paged_attention.prefix_groups import check_shared

__all__ = ["SPAN", "AttentionMetadata", "paged_attention"]

SPAN = 256

_impls = Implementations(__name__, ("reference", "cpu", "triton", "flex"))


@dataclass(slots=True)
class AttentionMetadata:
    """Sequences, contexts and block tables of one step; the same for all layers.

    `plans` caches what implementations derive from it once per step. Raises ValueError for shapes
    and dtypes that do not fit, and on the CPU for values that contradict each other.
    """

    cu_seqlens: torch.Tensor  # int32 [S + 1]: queries of sequence s are rows cu[s] .. cu[s + 1]
    context_lens: torch.Tensor  # int32 [S]: visible tokens, this step's queries included
    block_tables: torch.Tensor  # int32 [S, M]; -1 pads, and fills blocks that left the window
    max_query_len: int
    window: int | None = None  # positions that a query attends to, itself included; None: all
    # int32 [N, 4] of (first, end, start, stop): sequences first .. end have the same blocks for
    # positions start .. stop, whole blocks that all of their queries attend to. Sorted by first. A
    # sequence is in at most two groups, which nest and have disjoint positions.
    shared: torch.Tensor | None = None
    plans: dict[object, object] = field(default_factory=dict, init=False, repr=False)
    # Host copy of metadata on a device: implementations plan from it without synchronising.
    host: "AttentionMetadata | None" = field(default=None, repr=False)
    # Each sequence has one query, and those without context are padding, whose rows of the output
    # are undefined. For `triton` alone, with a plan made beforehand (`decode_plan.plan_decode`).
    is_padded: bool = False

    def __post_init__(self) -> None:
        op = "AttentionMetadata"
        cu, context, tables = self.cu_seqlens, self.context_lens, self.block_tables
        S = context.shape[0] if context.dim() == 1 else -1
        if context.dim() != 1 or context.dtype != torch.int32:
            refuse(op, "context_lens", context, "int32 [S]")
        if cu.dtype != torch.int32 or cu.shape != (S + 1,):
            refuse(op, "cu_seqlens", cu, f"int32 [{S + 1}]")
        if tables.dtype != torch.int32 or tables.dim() != 2 or tables.shape[0] != S:
            refuse(op, "block_tables", tables, f"int32 [{S}, M]")
        if self.window is not None and self.window < 1:
            raise ValueError(f"{op}: window is {self.window}; it must be at least 1, or None")
        shared = self.shared
        if shared is not None and (shared.dtype != torch.int32 or shared.shape[1:] != (4,)):
            refuse(op, "shared", shared, "int32 [N, 4]")
        if not (cu.is_contiguous() and context.is_contiguous() and tables.is_contiguous()):
            raise ValueError(f"{op}: cu_seqlens, context_lens, block_tables must be contiguous")
        if cu.device.type == "cpu":
            self._check_values()

    def contexts_grew(self) -> None:
        """Update plans after context_lens grew in place, as from one decode step to the next.

        Plans are recomputed on the device that holds context_lens.
        """
        for key, plan in list(self.plans.items()):
            grow = getattr(plan, "contexts_grew", None)
            if grow is None:
                del self.plans[key]
            else:
                grow(self)

    def _check_values(self) -> None:
        """ValueError for contradicting values. CPU only: on a GPU each read would synchronise."""
        cu = self.cu_seqlens.numpy()
        num_queries = cu[1:] - cu[:-1]
        if cu[0] != 0 or (num_queries < 0).any():
            raise ValueError("AttentionMetadata: cu_seqlens must start at 0 and never fall")
        context = self.context_lens.numpy()
        if ((num_queries > context) & ~(self.is_padded & (context == 0))).any():
            raise ValueError(
                "AttentionMetadata: a sequence has more queries than context_lens visible tokens"
            )
        if num_queries.size and num_queries.max() > self.max_query_len:
            raise ValueError(
                f"AttentionMetadata: max_query_len is {self.max_query_len}, "
                f"but a sequence has {num_queries.max()} queries"
            )
        if self.shared is not None:
            check_shared(self.shared.numpy(), num_queries, self.context_lens.numpy())


def paged_attention(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    meta: AttentionMetadata,
    *,
    scale: float,
    softcap: float = 0.0,
    impl: str,
) -> torch.Tensor:
    """Attention of q [T, H, D] over k_cache and v_cache [B, K, P, D]; returns [T, H, D].

    KV of this step's tokens must have been written before. All tensors have one dtype, float32 or
    bfloat16; blocks [K, P, D] are contiguous, at any even stride. Sums are float32 (a device rounds
    weights to the dtype of the values, for its tensor cores). Reads only positions that queries
    attend to: other blocks and slots may hold anything. Raises ValueError for shapes that do not
    fit, and for a block id outside the pool where a query needs one.
    """
    op = "paged_attention"
    if q.dim() != 3 or q.dtype not in FLOAT_DTYPES:
        refuse(op, "q", q, "float32 or bfloat16 [T, H, D]")
    T, H, D = q.shape
    if k_cache.dim() != 4 or k_cache.shape[3] != D or k_cache.dtype != q.dtype:
        refuse(op, "k_cache", k_cache, f"{q.dtype} [B, K, P, {D}]")
    if v_cache.shape != k_cache.shape or v_cache.dtype != q.dtype:
        refuse(op, "v_cache", v_cache, f"{q.dtype} {list(k_cache.shape)}, like k_cache")
    check_blocks(op, k_cache, v_cache)
    if meta.is_padded and impl != "triton":
        raise ValueError(f"{op}: implementation {impl} takes no padded metadata")
    if softcap < 0:
        raise ValueError(f"{op}: softcap is {softcap}; it must be positive, or 0 for none")
    if k_cache.shape[1] == 0 or H % k_cache.shape[1]:
        raise ValueError(f"{op}: {H} query heads do not divide among {k_cache.shape[1]} kv heads")
    if meta.context_lens.device.type == "cpu" and int(meta.cu_seqlens[-1]) != T:
        raise ValueError(f"{op}: q has {T} rows, cu_seqlens ends at {int(meta.cu_seqlens[-1])}")
    return _impls[impl].paged_attention(q, k_cache, v_cache, meta, scale, softcap)
