"""Random steps over a paged pool, and what float64 says of them: the oracle of attention tests."""

from collections.abc import Iterator

import numpy as np
import torch
from rounding_oracle import largest_error, squares_of_sum

from thothy_kernels.paged_attention import AttentionMetadata, paged_attention


class Case:
    """A step of sequences over a pool whose every other value is NaN; oracles in float64.

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
        """All rows in float64."""
        return torch.cat([exact.rows for exact in self._exact(softcap)])

    def mean_sizes(self, softcap: float = 0.0) -> torch.Tensor:
        """Like oracle, of the values' sizes: what a relative error of each weight amounts to."""
        return torch.cat([exact.mean_sizes for exact in self._exact(softcap)])

    def float32_error(self, softcap: float = 0.0) -> torch.Tensor:
        """Bound the float32 rounding error of each element of `oracle`."""
        return torch.cat([exact.float32_error() for exact in self._exact(softcap)])

    def _exact(self, softcap: float) -> Iterator["ExactAttention"]:
        start = 0
        for (context, n), table in zip(self.lens, self.tables, strict=True):
            if n == 0:
                continue
            first = 0 if self.window is None else max(0, context - n + 1 - self.window)
            seen = torch.arange(first, context)
            block, offset = table[seen // self.block_size].long(), seen % self.block_size
            k, v = (cache[block, :, offset] for cache in (self.k, self.v))
            rows = torch.arange(context - n, context)[:, None]
            visible = seen <= rows
            if self.window is not None:
                visible &= seen > rows - self.window
            yield ExactAttention(self.q[start : start + n], k, v, visible, self.scale, softcap)
            start += n


class ExactAttention:
    """The formula in float64: rows q [n, H, D] over k, v [x, K, D], visible [n, x]."""

    def __init__(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        visible: torch.Tensor,
        scale: float,
        softcap: float = 0.0,
    ) -> None:
        group = q.shape[1] // k.shape[1]
        q, k, v = q.double() * scale, k.double(), v.double()
        k, v = (cache.repeat_interleave(group, dim=1) for cache in (k, v))
        self._values, self._softcap, self._dim = v, softcap, q.shape[2]
        self._products = torch.einsum("nhd,xhd->hnx", q, k)
        self._squares = torch.einsum("nhd,xhd->hnx", q.square(), k.square())
        capped = softcap * torch.tanh(self._products / softcap) if softcap else self._products
        self._scores = capped.masked_fill(~visible, float("-inf"))
        self._weights = self._scores.softmax(-1)
        self.rows = self._mean(self._weights, v)
        self.mean_sizes = self._mean(self._weights, v.abs())

    def float32_error(self) -> torch.Tensor:
        """Derived in rounding_oracle's terms, its squares those of one rounding's unit.

        A score is a sum of D products with a query that was scaled; it is multiplied and divided by
        four more factors at most (powers of two, the cap). tanh may come of a power of two, which
        is wrong by two units near 1, and so is the cap then, by two of itself. A score's distance
        from the largest is rounded, and the power of that is a function: so much is a weight wrong.
        What that does to a row is added as if all errors had one sign. Both sums of a row are
        rescaled no more often than they have terms, and the result is a quotient.
        """
        scores, weights, rows = self._scores, self._weights, self.rows
        context = scores.shape[2]
        lost = squares_of_sum(self._dim, 2 * self._squares, self._products)
        lost = lost + 4 * self._products.square() + (2 * self._softcap) ** 2
        below = (scores.amax(-1, keepdim=True) - scores).square()
        wrong = torch.where(weights > 0, weights * (lost + below + 4).sqrt(), 0.0)
        by_weights = self._mean(wrong, self._values.abs())
        by_weights += wrong.sum(-1).T[:, :, None] * rows.abs()
        terms = self._mean(weights.square(), self._values.square())
        by_sums = squares_of_sum(2 * context, terms, rows)
        shares = squares_of_sum(2 * context, weights.square().sum(-1), torch.ones(()))
        by_sums += (shares.T[:, :, None] + 1) * rows.square()
        return largest_error(by_weights.square() + by_sums)

    @staticmethod
    def _mean(weights: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        return torch.einsum("hnx,xhd->nhd", weights, values)


def bound_of(case: Case, softcap: float, exact: torch.Tensor) -> torch.Tensor:
    """Bound the error of a CPU against float64.

    float32: as `float32_error`. A weight of bfloat16 may be split into two of 8 bits, which lack
    2^-17 of it; the result is rounded to 8 bits.
    """
    lost = case.float32_error(softcap)
    if case.dtype == torch.bfloat16:
        lost = lost + case.mean_sizes(softcap) * 2.0**-17
        lost = lost + (exact.abs() + lost) * torch.finfo(torch.bfloat16).eps / 2
    return lost
