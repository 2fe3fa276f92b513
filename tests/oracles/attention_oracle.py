"""Random steps over a paged pool, and what float64 says of them: the oracle of attention tests."""

from collections.abc import Iterator

import numpy as np
import torch

from thothy_kernels.paged_attention import AttentionMetadata, paged_attention


class Night:
    """Sequences over a pool whose every other value is NaN; oracles in float64.

    `shared`: (first, end, start, stop) in units of blocks; those sequences get the same blocks.
    """

    def __init__(
        self,
        lens: list[tuple[int, int]],  # context, queries
        *,
        shape: tuple[int, int, int] = (4, 2, 32),  # H, K, D
        block_size: int = 16,
        window: int | None = None,
        shared: tuple[tuple[int, int, int, int], ...] = (),
        dtype: torch.dtype = torch.float32,
        stride: int = 1,
        seed: int = 0,
    ) -> None:
        H, K, D = shape
        P = self.block_size = block_size
        self.generator = torch.Generator().manual_seed(seed)
        self.lens, self.window, self.dtype = lens, window, dtype
        M = max(-(-context // P) for context, _ in lens)
        B = len(lens) * M + 3
        ids = torch.randperm(B, generator=self.generator)[: len(lens) * M]
        tables = ids.reshape(len(lens), M).int()
        for first, end, start, stop in shared:
            tables[first:end, start:stop] = tables[first, start:stop]
        self.shared = torch.tensor(
            [[f, e, a * P, b * P] for f, e, a, b in shared], dtype=torch.int32
        ).reshape(-1, 4)
        self.k, self.v = (self._pool(B, (K, P, D), stride) for _ in range(2))
        written = torch.zeros((B, P), dtype=torch.bool)
        for (context, n), table in zip(lens, tables, strict=True):
            first = 0 if window is None else max(0, context - n + 1 - window)
            positions = torch.arange(first, context)
            blocks, offsets = table[positions // P].long(), positions % P
            new = ~written[blocks, offsets]  # what others share, the first of them wrote
            blocks, offsets = blocks[new], offsets[new]
            written[blocks, offsets] = True
            for cache in (self.k, self.v):
                cache[blocks, :, offsets] = self._normal(len(blocks), K, D)
            table[: first // P] = -1
            table[-(-context // P) :] = -1
        self.tables = tables
        self.q = self._normal(sum(n for _, n in lens), H, D)
        self.scale = D**-0.5

    def _normal(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=self.generator).mul(2).to(self.dtype)

    def _pool(self, B: int, block: tuple[int, int, int], stride: int) -> torch.Tensor:
        pool = torch.full((B, stride, *block), float("nan"), dtype=self.dtype)
        return pool[:, stride // 2]

    def meta(self, keep: slice = slice(None), *, grouped: bool = False) -> AttentionMetadata:
        lens = self.lens[keep]
        cu = np.cumsum([0, *(n for _, n in lens)])
        return AttentionMetadata(
            cu_seqlens=torch.tensor(cu, dtype=torch.int32),
            context_lens=torch.tensor([c for c, _ in lens], dtype=torch.int32),
            block_tables=self.tables[keep].contiguous(),
            max_query_len=max(n for _, n in lens),
            window=self.window,
            shared=self.shared if grouped else None,
        )

    def run(self, impl: str, *, softcap: float = 0.0, grouped: bool = False) -> torch.Tensor:
        return paged_attention(
            self.q,
            self.k,
            self.v,
            self.meta(grouped=grouped),
            scale=self.scale,
            softcap=softcap,
            impl=impl,
        )

    def alone(self, impl: str, seq: int, softcap: float = 0.0) -> torch.Tensor:
        start = sum(n for _, n in self.lens[:seq])
        rows = self.q[start : start + self.lens[seq][1]]
        meta = self.meta(slice(seq, seq + 1))
        return paged_attention(
            rows, self.k, self.v, meta, scale=self.scale, softcap=softcap, impl=impl
        )

    def oracle(self, softcap: float = 0.0) -> torch.Tensor:
        """Row by row in float64."""
        return torch.stack(list(self._rows(softcap, self.v)))

    def mean_sizes(self, softcap: float = 0.0) -> torch.Tensor:
        """Like oracle, of the values' sizes: what a relative error of each weight amounts to."""
        return torch.stack(list(self._rows(softcap, self.v.abs())))

    def _rows(self, softcap: float, values: torch.Tensor) -> Iterator[torch.Tensor]:
        H, K = self.q.shape[1], self.k.shape[1]
        row = 0
        for (context, n), table in zip(self.lens, self.tables, strict=True):
            for position in range(context - n, context):
                first = 0 if self.window is None else max(0, position + 1 - self.window)
                seen = torch.arange(first, position + 1)
                block, offset = table[seen // self.block_size].long(), seen % self.block_size
                k = self.k[block, :, offset].double().repeat_interleave(H // K, 1)
                v = values[block, :, offset].double().repeat_interleave(H // K, 1)
                scores = torch.einsum("hd,xhd->hx", self.q[row].double(), k) * self.scale
                if softcap:
                    scores = softcap * torch.tanh(scores / softcap)
                yield torch.einsum("hx,xhd->hd", scores.softmax(-1), v)
                row += 1


def bound_of(night: Night, softcap: float) -> float:
    """What float32 may lose: a score of size s is known to about D rounding errors of s, a weight
    to as much relative to itself, the sum of weighted values likewise; bfloat16 rounds the end."""
    eps = torch.finfo(torch.float32).eps
    largest_score = float((night.q.float().norm(dim=-1).max() * 2 * 6) * night.scale * 6)
    values = float(night.v.nan_to_num().float().abs().max())
    lost = 8 * eps * (largest_score + softcap) * values
    if night.dtype == torch.bfloat16:
        lost += torch.finfo(torch.bfloat16).eps * values
    return lost
