"""paged_attention's Triton kernels on the device, against float64; all free slots hold NaN."""

import pytest
import torch
from attention_bound import bound_of
from attention_oracle import Case
from device_place import DEVICE, DTYPES, HALF, on_device, pool_on_device, sizes
from test_prefix_groups import GROUPS

from thothy_kernels.paged_attention import triton_impl

pytestmark = pytest.mark.gpu


def attend(case: Case, softcap: float = 0.0, *, grouped: bool = False) -> torch.Tensor:
    """Call the implementation directly: the contract refuses the float16 of a dry run."""
    k, v = pool_on_device(case.k), pool_on_device(case.v)
    meta = on_device(case.meta(grouped=grouped))
    out = triton_impl.paged_attention(case.q.to(DEVICE), k, v, meta, case.scale, softcap)
    assert out.dtype == case.dtype
    return out.cpu().double()


def assert_exact(case: Case, softcap: float = 0.0, *, grouped: bool = False) -> None:
    exact = case.oracle(softcap)
    error = (attend(case, softcap, grouped=grouped) - exact).abs()
    assert (error <= bound_of(case, exact, softcap)).all()  # NaN is not


# (context, queries) of each sequence.
STEPS = {
    "decode": sizes([(1, 1), (255, 1), (256, 1), (1025, 1), (4000, 1)], [(1, 1), (70, 1)]),
    "prefill": sizes([(5, 5), (300, 300), (700, 64), (1300, 33)], [(5, 5), (60, 33)]),
    "mix": sizes([(1, 1), (17, 17), (300, 1), (520, 3), (257, 70), (900, 1)], [(40, 1), (20, 7)]),
}
HEADS = sizes(
    [(8, 2, 64), (7, 1, 80), (6, 2, 96), (16, 2, 128), (4, 2, 256), (3, 1, 8), (4, 4, 16)],
    [(8, 2, 64), (7, 1, 80), (3, 1, 8)],
)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("heads", HEADS)
def test_it_is_what_the_formula_says(
    heads: tuple[int, int, int], step: str, dtype: torch.dtype
) -> None:
    assert_exact(Case(STEPS[step], shape=heads, block_size=32, dtype=dtype, stride=3))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("softcap", [0.0, 30.0])
@pytest.mark.parametrize("window", sizes([1, 64, 300, 5000], [40]))
def test_windows_and_soft_caps(window: int, softcap: float, dtype: torch.dtype) -> None:
    case = Case(STEPS["mix"], shape=(8, 2, 64), window=window, dtype=dtype, stride=3)
    assert_exact(case, softcap)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("block_size", sizes([1, 7, 16, 64], [7]))
def test_blocks_of_any_size(block_size: int, dtype: torch.dtype) -> None:
    assert_exact(Case(STEPS["mix"], shape=(8, 2, 128), block_size=block_size, dtype=dtype), 30.0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("heads", sizes([(4, 2, 32), (32, 8, 128), (40, 1, 64)], [(4, 2, 16)]))
@pytest.mark.parametrize("groups", sizes(list(GROUPS), ["head and documents"]))
def test_groups_change_nothing(
    groups: str, heads: tuple[int, int, int], dtype: torch.dtype
) -> None:
    lens = [(970 + 13 * i, 1) for i in range(9)]
    beside = sizes([(33, 20), (5, 5), (8, 1)], [(5, 5)])
    case = Case(lens + beside, shape=heads, shared=GROUPS[groups], dtype=dtype)
    assert_exact(case, grouped=True)


def test_contexts_grow_under_a_plan() -> None:
    """Consecutive decode steps on the device change only context_lens."""
    case = Case(STEPS["decode"][1:], shape=(8, 2, 64), dtype=HALF)
    k, v = pool_on_device(case.k), pool_on_device(case.v)
    meta, q = on_device(case.meta()), case.q.to(DEVICE)
    meta.context_lens -= 50
    triton_impl.paged_attention(q, k, v, meta, case.scale, 0.0)
    meta.context_lens += 50
    meta.contexts_grew()
    out = triton_impl.paged_attention(q, k, v, meta, case.scale, 0.0)
    exact = case.oracle()
    assert ((out.cpu().double() - exact).abs() <= bound_of(case, exact, 0.0)).all()
