"""Paged attention against its definition in float64, and a row's independence of its batch."""

import math

import pytest
import torch
from attention_oracle import ExactAttention
from thread_counts import on_threads

from thothy_kernels.paged_attention import AttentionMetadata, paged_attention

IMPLS = ("reference", "cpu")
# Not everywhere: a row's bits may differ with the batch in Triton, and the interpreter cannot
# multiply bfloat16. test_triton_impl.py tests its exactness.
ALL_IMPLS = (*IMPLS, "triton")
DTYPES = (torch.float32, torch.bfloat16)
# (query heads, kv heads, head dim): grouped, odd counts, dims from 8 to 256, a group above a tile.
HEADS = [(4, 2, 16), (3, 1, 8), (9, 3, 64), (7, 1, 80), (2, 2, 256), (5, 5, 20), (70, 1, 32)]
# (queries, context): around the ends of blocks and of spans of 256.
WORK = [(1, 1), (5, 5), (1, 255), (2, 256), (1, 257), (19, 300), (40, 530)]


class Pool:
    """Sequences whose KV is in shuffled blocks; everything else in the pool is NaN."""

    def __init__(
        self,
        heads: tuple[int, int, int],
        contexts: list[int],
        *,
        block_size: int = 16,
        dtype: torch.dtype = torch.float32,
        order: int = 0,
    ) -> None:
        H, K, D = heads
        self.scale = D**-0.5
        self.block_size = block_size
        num_blocks = [-(-context // block_size) for context in contexts]
        ids = torch.randperm(sum(num_blocks) + 3, generator=_seeded(order))
        self.tables = torch.full((len(contexts), max(num_blocks) + 1), -1, dtype=torch.int32)
        self.k = torch.full((len(ids), K, block_size, D), math.nan, dtype=dtype)
        self.v = self.k.clone()
        self.seqs = []
        taken = 0
        for seq, context in enumerate(contexts):
            generator = _seeded(1000 + context)
            q, k, v = (torch.randn(context, n, D, generator=generator).to(dtype) for n in (H, K, K))
            mine = ids[taken : taken + num_blocks[seq]]
            taken += len(mine)
            self.tables[seq, : len(mine)] = mine
            positions = torch.arange(context)
            pages, offsets = mine[positions // block_size], positions % block_size
            self.k[pages, :, offsets] = k
            self.v[pages, :, offsets] = v
            self.seqs.append((q, k, v))

    def attend(self, work: list[tuple[int, int, int]], impl: str) -> list[torch.Tensor]:
        """One step: for each (sequence, first position, end) its rows of the output."""
        sizes = [end - first for _, first, end in work]
        meta = AttentionMetadata(
            torch.tensor([0, *sizes]).cumsum(0).int(),
            torch.tensor([end for _, _, end in work], dtype=torch.int32),
            self.tables[[seq for seq, _, _ in work]].contiguous(),
            max(sizes),
        )
        q = torch.cat([self.seqs[seq][0][first:end] for seq, first, end in work])
        out = paged_attention(q, self.k, self.v, meta, scale=self.scale, impl=impl)
        return list(out.split(sizes))

    def exact(self, seq: int, first: int, end: int) -> ExactAttention:
        """The same rows in float64, by the formula."""
        q, k, v = self.seqs[seq]
        visible = torch.arange(end) <= torch.arange(first, end)[:, None]
        return ExactAttention(q[first:end], k[:end], v[:end], visible, self.scale)


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _all_work(pool: Pool) -> list[tuple[int, int, int]]:
    return [(seq, context - n, context) for seq, (n, context) in enumerate(WORK)]


@pytest.mark.few(4)
@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("heads", HEADS)
def test_float32_is_within_rounding_of_the_definition(heads, impl):
    pool = Pool(heads, [context for _, context in WORK])
    for work, rows in zip(_all_work(pool), pool.attend(_all_work(pool), impl), strict=True):
        exact = pool.exact(*work)
        assert ((rows - exact.rows).abs() <= exact.float32_error()).all()


@pytest.mark.few(4)
@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("heads", HEADS)
def test_bfloat16_errs_only_by_rounding_the_result(heads, impl):
    pool = Pool(heads, [context for _, context in WORK], dtype=torch.bfloat16)
    half_step = torch.finfo(torch.bfloat16).eps / 2
    for work, rows in zip(_all_work(pool), pool.attend(_all_work(pool), impl), strict=True):
        exact = pool.exact(*work)
        # Inputs are exact in both; a weight may be split into two of 8 bits; sums are float32.
        lost = exact.float32_error() + exact.mean_sizes * 2.0**-17
        assert ((rows - exact.rows).abs() <= lost + (exact.rows.abs() + lost) * half_step).all()


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("heads", HEADS)
def test_row_alone_equals_row_in_batch(heads, impl):
    pool = Pool(heads, [context for _, context in WORK])
    work = _all_work(pool)
    together = pool.attend(work, impl)
    backwards = pool.attend(work[::-1], impl)[::-1]
    for mine, rows, shuffled in zip(work, together, backwards, strict=True):
        assert torch.equal(rows, shuffled)
        assert torch.equal(rows, pool.attend([mine], impl)[0])


@pytest.mark.few(2)
@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("heads", [(4, 2, 16), (3, 1, 8), (3, 1, 128)])
def test_chunks_of_a_prompt_equal_the_prompt_in_one_go(heads, impl):
    length = 262
    pool = Pool(heads, [length, 33])
    whole = pool.attend([(0, 0, length)], impl)[0]
    for size in (1, 7, 64) if heads[2] < 128 else (7,):
        chunks = [
            pool.attend([(1, 3, 33), (0, first, min(first + size, length))], impl)[1]
            for first in range(0, length, size)
        ]
        assert torch.equal(torch.cat(chunks), whole), f"chunks of {size}"


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_block_size_and_place_in_the_pool_change_no_bit(impl, dtype):
    results = []
    for order, block_size in enumerate((1, 16, 32, 7)):
        contexts = [context for _, context in WORK]
        pool = Pool((6, 2, 40), contexts, block_size=block_size, dtype=dtype, order=order)
        results.append(torch.cat(pool.attend(_all_work(pool), impl)))
    assert all(torch.equal(result, results[0]) for result in results[1:])


@pytest.mark.parametrize("impl", IMPLS)
def test_number_of_threads_changes_no_bit(impl):
    # One long context under two kv heads: with threads, its spans are shared out between them.
    pool = Pool((4, 2, 32), [3000, 40, 700])
    work = [(0, 2999, 3000), (1, 0, 40), (2, 650, 700)]
    results = on_threads(lambda: torch.cat(pool.attend(work, impl)), 1, 2, 3, 8)
    assert all(torch.equal(result, results[0]) for result in results[1:])


@pytest.mark.parametrize("impl", ALL_IMPLS)
def test_nothing_beyond_a_rows_context_is_read(impl):
    """Infinite values of later tokens, NaN in free slots: neither reaches an earlier row."""
    pool = Pool((4, 2, 16), [64])
    first_half = pool.attend([(0, 0, 30)], impl)[0]
    positions = torch.arange(30, 64)
    pages = pool.tables[0, positions // pool.block_size].long()
    pool.k[pages, :, positions % pool.block_size] = math.nan
    pool.v[pages, :, positions % pool.block_size] = math.nan
    assert torch.equal(pool.attend([(0, 0, 30)], impl)[0], first_half)
    assert first_half.isfinite().all()


@pytest.mark.parametrize("impl", IMPLS)
def test_two_sequences_share_blocks(impl):
    pool = Pool((4, 2, 16), [40, 40])
    pool.tables[1] = pool.tables[0]
    pool.seqs[1] = pool.seqs[0]
    mine, same = pool.attend([(0, 39, 40), (1, 39, 40)], impl)
    assert torch.equal(mine, same)


@pytest.mark.parametrize("impl", ALL_IMPLS)
def test_queries_may_be_a_view_of_merged_projections(impl):
    pool = Pool((4, 2, 16), [20])
    q = pool.seqs[0][0]
    merged = torch.cat([q.flatten(1), torch.full((20, 64), math.nan)], dim=1)
    meta = AttentionMetadata(
        torch.tensor([0, 20], dtype=torch.int32),
        torch.tensor([20], dtype=torch.int32),
        pool.tables,
        20,
    )
    view = merged[:, :64].view(20, 4, 16)
    out = paged_attention(view, pool.k, pool.v, meta, scale=pool.scale, impl=impl)
    assert torch.equal(out, pool.attend([(0, 0, 20)], impl)[0])


@pytest.mark.parametrize("impl", ALL_IMPLS)
def test_a_sequence_without_queries_and_an_empty_step(impl):
    pool = Pool((4, 2, 16), [20, 9])
    alone = pool.attend([(0, 10, 20)], impl)[0]
    rows, none = pool.attend([(0, 10, 20), (1, 9, 9)], impl)
    assert torch.equal(rows, alone)
    assert none.shape == (0, 4, 16)
    assert pool.attend([(1, 9, 9)], impl)[0].shape == (0, 4, 16)


@pytest.mark.parametrize("impl", ALL_IMPLS)
@pytest.mark.parametrize("block_id", [-1, 99])
def test_a_block_outside_the_pool_is_refused(impl, block_id):
    pool = Pool((4, 2, 16), [40])
    pool.tables[0, 2] = block_id
    with pytest.raises(ValueError, match="needs 3 block ids within 0"):
        pool.attend([(0, 39, 40)], impl)
    pool.tables = pool.tables[:, :2].contiguous()
    with pytest.raises(ValueError, match="needs 3 block ids"):
        pool.attend([(0, 39, 40)], impl)


def test_an_unknown_implementation_is_refused_by_name():
    pool = Pool((4, 2, 16), [4])
    with pytest.raises(
        ValueError, match="no implementation 'cuda'; there are reference, cpu, triton"
    ):
        pool.attend([(0, 0, 4)], "cuda")


def test_bad_arguments_are_refused_by_name():
    pool = Pool((4, 2, 16), [4])
    q = pool.seqs[0][0]

    def meta(cu=(0, 4), context=(4,), longest=4, dtype=torch.int32):
        return AttentionMetadata(
            torch.tensor(cu, dtype=torch.int32),
            torch.tensor(context, dtype=dtype),
            pool.tables[: len(context)],
            longest,
        )

    def attend(q=q, k=pool.k, v=pool.v, **kwargs):
        paged_attention(q, k, v, meta(**kwargs), scale=1.0, impl="cpu")

    cases = {
        "q is torch.float16": {"q": q.half()},
        "k_cache is": {"k": pool.k[..., :8].contiguous()},
        "v_cache is": {"v": pool.v.bfloat16()},
        "must be contiguous": {"k": pool.k.transpose(1, 2).contiguous().transpose(1, 2)},
        "do not divide": {"q": q[:, :3]},
        "q has 3 rows": {"q": q[:3]},
        "more queries than": {"context": (3,)},
        "max_query_len is 3": {"longest": 3},
        "start at 0": {"cu": (1, 4)},
        "context_lens is torch.int64": {"dtype": torch.int64},
        "cu_seqlens is": {"cu": (0, 2, 4)},
    }
    for message, arguments in cases.items():
        with pytest.raises(ValueError, match=message):
            attend(**arguments)
