"""Copy of whole KV blocks, for copy-on-write of shared blocks."""

from collections.abc import Sequence

import torch

from thothy_kernels.contract import Implementations, refuse

__all__ = ["copy_blocks"]

_impls = Implementations(__name__, ("reference", "cpu", "triton"))


def copy_blocks(
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    src_ids: Sequence[int] | torch.Tensor,
    dst_ids: Sequence[int] | torch.Tensor,
    *,
    impl: str,
) -> None:
    """Copy blocks src_ids[i] to dst_ids[i] in k_cache and v_cache [B, K, P, D], in place.

    Any dtype and block shape [K, P, D] is allowed. Caches may be strided; `triton` needs each block
    to be contiguous.

    One block may be copied to several. A written block must appear once in dst_ids and not in
    src_ids. Raises ValueError if it does not, for ids outside the pool, and for shapes that do not
    fit.
    """
    op = "copy_blocks"
    if k_cache.dim() != 4:
        refuse(op, "k_cache", k_cache, "[B, K, P, D]")
    if v_cache.shape != k_cache.shape or v_cache.dtype != k_cache.dtype:
        refuse(op, "v_cache", v_cache, f"{k_cache.dtype} {list(k_cache.shape)}, like k_cache")
    src, dst = _ids(src_ids), _ids(dst_ids)
    if len(src) != len(dst):
        raise ValueError(f"{op}: {len(src)} src_ids, but {len(dst)} dst_ids")
    if not src:
        return
    B = k_cache.shape[0]
    if min(min(src), min(dst)) < 0 or max(max(src), max(dst)) >= B:
        raise ValueError(f"{op}: src_ids and dst_ids must lie in 0 .. {B - 1}")
    if len(set(dst)) != len(dst) or set(dst) & set(src):
        raise ValueError(f"{op}: a block in dst_ids is named twice, or is in src_ids too")
    _impls[impl].copy_blocks(k_cache, v_cache, src, dst)


def _ids(ids: Sequence[int] | torch.Tensor) -> list[int]:
    return ids.tolist() if isinstance(ids, torch.Tensor) else list(ids)
