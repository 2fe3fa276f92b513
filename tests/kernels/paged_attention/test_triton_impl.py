"""The Triton kernels of paged_attention in the interpreter, against float64.

In float16 for what a device computes in bfloat16: the interpreter cannot multiply bfloat16.
"""

from random import Random

import pytest
import torch
from attention_oracle import Case

from thothy_kernels.paged_attention import paged_attention, triton_impl
from thothy_kernels.paged_attention.triton_impl import decode_plan
from thothy_kernels.paged_attention.triton_impl.decode_tables import MAX_GROUP_ROWS

if torch.cuda.is_available():
    pytest.skip("these compute on CPU tensors, in the interpreter", allow_module_level=True)

# (365, 3): a window of 300 begins one position into a tile, with a whole one before it.
LENS = [(1, 1), (17, 17), (300, 1), (520, 3), (256, 1), (257, 70), (900, 1), (365, 3)]


def attend(case: Case, softcap: float = 0.0, *, grouped: bool = False) -> torch.Tensor:
    meta = case.meta(grouped=grouped)
    return triton_impl.paged_attention(case.q, case.k, case.v, meta, case.scale, softcap).double()


def assert_float32(case: Case, out: torch.Tensor, softcap: float = 0.0) -> None:
    assert ((out - case.oracle(softcap)).abs() <= case.float32_error(softcap)).all()


def assert_float16(case: Case, out: torch.Tensor, softcap: float = 0.0) -> None:
    """Inputs are exact. A weight is rounded to 11 bits, or to steps of 2^-24 below 2^-14 of the
    largest; the result is rounded to 11 bits; all between is float32."""
    exact, half_step = case.oracle(softcap), torch.finfo(torch.float16).eps / 2
    longest = max(context for context, _ in case.lens)
    tiny = longest * 2.0**-25 * float(case.v.nan_to_num().abs().max())
    lost = half_step * case.mean_sizes(softcap) + tiny + case.float32_error(softcap)
    assert ((out - exact).abs() <= lost + half_step * (exact.abs() + lost)).all()


@pytest.mark.few(1)
@pytest.mark.parametrize("softcap", [0.0, 3.0, 50.0])
@pytest.mark.parametrize("window", [None, 1, 5, 64, 300, 5000])
def test_it_is_what_the_formula_says(softcap: float, window: int | None) -> None:
    case = Case(LENS, window=window, stride=3, seed=window or 0)
    assert_float32(case, attend(case, softcap), softcap)


@pytest.mark.rest
@pytest.mark.parametrize("window", [None, 40])
def test_sixteen_bits_err_only_by_rounding_weights_and_result(window: int | None) -> None:
    case = Case(LENS, shape=(4, 2, 64), window=window, dtype=torch.float16, seed=2)
    assert_float16(case, attend(case, 20.0), 20.0)


# One kv head and many, no power of two anywhere, dims that are padded, a group above a tile.
SHAPES = [(3, 1, 8), (9, 3, 64), (7, 1, 80), (6, 2, 96), (2, 2, 256), (5, 5, 20), (70, 1, 32)]


@pytest.mark.few(1)
@pytest.mark.parametrize("shape", [*SHAPES, (16, 2, 128)])
@pytest.mark.parametrize(("window", "block_size"), [(None, 7), (40, 16), (None, 1)])
def test_any_heads(shape: tuple[int, int, int], window: int | None, block_size: int) -> None:
    lens = [(1, 1), (9, 9), (140, 1), (77, 30)]
    case = Case(lens, shape=shape, window=window, block_size=block_size)
    assert_float32(case, attend(case))


@pytest.mark.rest
@pytest.mark.parametrize("num_programs", [1, 2, 3, 64])
def test_where_pieces_are_cut_changes_nothing(
    num_programs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One program for all tiles up to more programs than tiles."""
    monkeypatch.setattr(decode_plan, "_INTERPRETED_PROGRAMS", num_programs)
    lens = [(970 + 13 * i, 1) for i in range(4)] + [(3, 1), (70, 1)]
    case = Case(lens, shape=(4, 2, 16), shared=((0, 4, 0, 50), (0, 2, 50, 55)))
    assert_float32(case, attend(case))
    assert_float32(case, attend(case, grouped=True))


# Of one head of many sequences, of documents within it, of both, of little ones, in blocks of 16.
GROUPS = {
    "one": ((0, 4, 0, 20),),
    "head and documents": ((0, 9, 0, 7), (1, 4, 7, 25), (5, 8, 7, 24)),
    "documents": ((0, 2, 0, 12), (2, 6, 0, 18), (7, 9, 0, 6)),
    "behind a beginning of its own": ((3, 9, 10, 25),),
    "the later part outside": ((0, 9, 10, 12), (2, 5, 3, 9)),
    "one block": ((0, 9, 0, 1),),
}


@pytest.mark.rest
@pytest.mark.parametrize("groups", GROUPS)
@pytest.mark.parametrize("shape", [(4, 2, 32), (16, 1, 64), (2, 2, 16), (40, 1, 16)])
def test_groups_change_nothing(groups: str, shape: tuple[int, int, int]) -> None:
    case = Case([(410 + 7 * i, 1) for i in range(9)], shape=shape, shared=GROUPS[groups])
    out = attend(case, 30.0, grouped=True)
    assert_float32(case, out, 30.0)


@pytest.mark.rest
def test_groups_in_sixteen_bits() -> None:
    lens = [(410 + 7 * i, 1) for i in range(9)]
    case = Case(lens, shared=GROUPS["head and documents"], dtype=torch.float16)
    assert_float16(case, attend(case, grouped=True))


@pytest.mark.rest
@pytest.mark.parametrize("seed", range(6))
def test_groups_beside_prompts_in_any_number(seed: int) -> None:
    """Random cases: nested groups of many sizes, more members than a chunk has rows."""
    random = Random(seed)
    num, outer = random.randint(2, MAX_GROUP_ROWS), random.randint(1, 20)
    groups, first = [(0, num, 0, outer)], 0
    while first < num:
        end = min(num, first + random.randint(1, 9))
        if end - first > 1:
            groups.append((first, end, outer, outer + random.randint(1, 5)))
        first = end
    lens = [(405 + random.randint(0, 40), 1) for _ in range(num)]
    lens += [(33, 20), (5, 5), (8, 1)]
    case = Case(lens, shape=(2, 1, 16), shared=tuple(groups), seed=seed)
    assert_float32(case, attend(case, grouped=True))


def test_a_window_leaves_groups_alone() -> None:
    case = Case([(200, 1), (200, 1)], window=50, shared=((0, 2, 0, 10),))
    assert torch.equal(attend(case, grouped=True), attend(case))


@pytest.mark.rest
@pytest.mark.parametrize("impl", ["cpu", "triton"])
def test_contexts_may_grow_under_a_plan(impl: str) -> None:
    """Consecutive decode steps change only context_lens and values derived from them."""
    lens = [(410 + 7 * i, 1) for i in range(4)]
    later = Case(lens, shared=((0, 4, 0, 20),))
    meta = later.meta(grouped=True)

    def step() -> torch.Tensor:
        return paged_attention(later.q, later.k, later.v, meta, scale=later.scale, impl=impl)

    meta.context_lens -= 60
    earlier = step()
    meta.context_lens += 60
    meta.contexts_grew()
    assert torch.equal(step(), later.run(impl, grouped=True))
    assert not torch.equal(step(), earlier)
