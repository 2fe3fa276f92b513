"""Windows, soft caps, strided pools and prefix groups: exactness and batch-invariant bits."""

from random import Random
from typing import Any

import pytest
import torch
from attention_oracle import Case, bound_of

from thothy_kernels.paged_attention import SPAN, AttentionMetadata, paged_attention

IMPLS = ("reference", "cpu")


LENS = [(1, 1), (17, 17), (300, 1), (520, 3), (SPAN, 1), (SPAN + 1, 70), (900, 1)]


@pytest.mark.few(12)
@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("softcap", [0.0, 3.0, 50.0])
@pytest.mark.parametrize("window", [None, 1, 5, 64, 300, 5000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_what_the_formula_says(
    impl: str, softcap: float, window: int | None, dtype: torch.dtype
) -> None:
    case = Case(LENS, window=window, dtype=dtype, stride=3, seed=window or 0)
    exact = case.oracle(softcap)
    error = (case.run(impl, softcap=softcap).double() - exact).abs()
    assert (error <= bound_of(case, softcap, exact)).all()


@pytest.mark.parametrize("shape", [(2, 1, 256), (6, 2, 24), (8, 8, 16), (16, 2, 128)])
@pytest.mark.parametrize("window", [None, 40])
def test_any_heads(shape: tuple[int, int, int], window: int | None) -> None:
    case = Case(LENS[:5], shape=shape, window=window, block_size=7)
    exact = case.oracle()
    error = (case.run("cpu").double() - exact).abs()
    assert (error <= bound_of(case, 0.0, exact)).all()


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("window", [None, 1, 100, 700])
def test_a_row_has_the_same_bits_alone_and_in_a_batch(impl: str, window: int | None) -> None:
    case = Case(LENS, window=window)
    together, start = case.run(impl, softcap=20.0), 0
    for seq, (_, n) in enumerate(case.lens):
        assert torch.equal(case.alone(impl, seq, 20.0), together[start : start + n])
        start += n


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("window", [3, 100, 300])
def test_a_chunk_has_the_same_bits_as_its_rows_one_by_one(impl: str, window: int) -> None:
    """The first visible span differs from row to row of a tile."""
    case = Case([(SPAN + 130, 200)], window=window)
    whole = case.run(impl)
    for row in range(0, 200, 7):
        meta = AttentionMetadata(
            cu_seqlens=torch.tensor([0, 1], dtype=torch.int32),
            context_lens=torch.tensor([SPAN + 130 - 199 + row], dtype=torch.int32),
            block_tables=case.tables,
            max_query_len=1,
            window=window,
        )
        args: Any = (case.q[row : row + 1], case.k, case.v, meta)
        alone = paged_attention(*args, scale=case.scale, impl=impl)
        assert torch.equal(alone[0], whole[row])


# Of one head of many sequences, of documents within it, of both, of long ones, in blocks of 16.
GROUPS = {
    "one": ((0, 4, 0, 40),),
    "head and documents": ((0, 9, 0, 17), (1, 4, 17, 50), (5, 8, 17, 60)),
    "documents": ((0, 2, 0, 32), (2, 6, 0, 48), (7, 9, 0, 16)),
    "behind a beginning of its own": ((3, 9, 20, 60),),
    "less than a span": ((0, 9, 0, 9),),
}


@pytest.mark.few(2)
@pytest.mark.parametrize("groups", GROUPS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(4, 2, 32), (16, 1, 64), (8, 8, 16)])
def test_groups_do_not_change_a_bit(
    groups: str, dtype: torch.dtype, shape: tuple[int, int, int]
) -> None:
    lens = [(970 + 13 * i, 1) for i in range(9)]
    case = Case(lens, shape=shape, shared=GROUPS[groups], dtype=dtype)
    plain = case.run("cpu", softcap=30.0)
    assert torch.equal(case.run("cpu", softcap=30.0, grouped=True), plain)
    assert torch.equal(case.run("reference", grouped=True), case.run("reference", grouped=False))
    exact = case.oracle(30.0)
    assert ((plain.double() - exact).abs() <= bound_of(case, 30.0, exact)).all()


def test_groups_beside_prompts_in_any_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random cases: nested groups of many sizes, more members than a tile has rows."""
    random = Random(5)
    for seed in range(12):
        num = random.randint(2, 90)
        outer = random.randint(1, 60)
        groups: list[tuple[int, int, int, int]] = [(0, num, 0, outer)]
        first = 0
        while first < num:
            end = min(num, first + random.randint(1, 9))
            if end - first > 1:
                groups.append((first, end, outer, outer + random.randint(1, 40)))
            first = end
        lens = [(1650 + random.randint(0, 40), 1) for _ in range(num)] + [(333, 20), (5, 5)]
        case = Case(lens, shape=(2, 1, 16), shared=tuple(groups), seed=seed)
        assert torch.equal(case.run("cpu", grouped=True), case.run("cpu"))


def test_a_window_leaves_groups_alone() -> None:
    case = Case([(600, 1), (600, 1)], window=100, shared=((0, 2, 0, 36),))
    assert torch.equal(case.run("cpu", grouped=True), case.run("cpu"))


@pytest.mark.parametrize(
    ("rows", "wrong"),
    [
        ([[0, 3, 0, 32]], "in order"),
        ([[1, 1, 0, 32]], "in order"),
        ([[0, 2, 32, 32]], "in order"),
        ([[1, 2, 0, 16], [0, 2, 16, 32]], "in order"),
        ([[0, 2, 0, 64]], "beyond"),
        ([[0, 2, 0, 32], [0, 2, 16, 48]], "overlaps"),
        ([[0, 2, 0, 16], [0, 2, 16, 32], [0, 2, 32, 48]], "overlaps"),
    ],
)
def test_groups_that_cannot_be_are_refused(rows: list[list[int]], wrong: str) -> None:
    case = Case([(60, 1), (60, 1)], shared=((0, 2, 0, 2),))
    case.shared = torch.tensor(rows, dtype=torch.int32)
    with pytest.raises(ValueError, match=wrong):
        case.run("cpu", grouped=True)


@pytest.mark.parametrize(("rows", "wrong"), [([0, 2, 0, 48], "differ"), ([0, 2, 0, 20], "whole")])
def test_groups_without_common_blocks_are_refused(rows: list[int], wrong: str) -> None:
    case = Case([(60, 1), (60, 1)], shared=((0, 2, 0, 2),))
    case.shared = torch.tensor([rows], dtype=torch.int32)
    with pytest.raises(ValueError, match=wrong):
        case.run("cpu", grouped=True)


def test_a_group_is_seen_by_all_queries() -> None:
    case = Case([(34, 3), (60, 1)], shared=((0, 2, 0, 2),))
    with pytest.raises(ValueError, match="one of its queries"):
        case.run("cpu", grouped=True)


@pytest.mark.few(1)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(4, 2, 32), (16, 1, 64), (70, 1, 32)])
def test_members_may_have_several_queries(dtype: torch.dtype, shape: tuple[int, int, int]) -> None:
    """Several queries per sequence, as when verifying drafts; the third has more than a tile."""
    lens = [(970, 1), (983, 8), (1010, 70), (991, 3), (975, 8), (972, 1)]
    case = Case(lens, shape=shape, shared=((0, 6, 0, 20), (1, 5, 20, 48)), dtype=dtype)
    plain = case.run("cpu")
    assert torch.equal(case.run("cpu", grouped=True), plain)
    exact = case.oracle()
    assert ((plain.double() - exact).abs() <= bound_of(case, 0.0, exact)).all()


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("softcap", [-1.0])
def test_a_soft_cap_is_positive(impl: str, softcap: float) -> None:
    with pytest.raises(ValueError, match="softcap"):
        Case([(5, 1)]).run(impl, softcap=softcap)
