"""paged_attention by flex_attention, against float64, the definition and torch's own kernel."""

from collections.abc import Iterator

import pytest
import torch
import torch.nn.attention.flex_attention as flex_module
from attention_oracle import Case
from device_place import DEVICE, on_device, pool_on_device
from varlen_oracle import reason_unavailable, varlen_paged_attention

from thothy_kernels.paged_attention import paged_attention
from thothy_kernels.paged_attention.flex_impl import block_masks

# (context, queries): decode rows, whole prompts, chunks behind cached prefixes, no queries at all.
LENS = [(1, 1), (17, 17), (300, 1), (40, 0), (520, 3), (256, 1), (257, 70)]
DECODE = [(1, 1), (16, 1), (300, 1), (33, 1)]


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Eager flex is traced by dynamo again for most shapes: seconds, and the same operations. One
    thread, for threads of many small operations wait for each other when the machine is busy."""
    monkeypatch.setattr(flex_module, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True, raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def assert_float32(case: Case, softcap: float = 0.0) -> None:
    error = (case.run("flex", softcap=softcap).double() - case.oracle(softcap)).abs()
    assert (error <= case.float32_error(softcap)).all()


@pytest.mark.few(3)
@pytest.mark.parametrize("softcap", [0.0, 3.0])
@pytest.mark.parametrize("window", [None, 1, 64, 300])
def test_it_is_what_the_formula_says(softcap: float, window: int | None) -> None:
    assert_float32(Case(LENS, window=window, stride=3, seed=window or 0), softcap)


@pytest.mark.few(2)
@pytest.mark.parametrize("shape", [(3, 1, 8), (9, 3, 64), (7, 1, 80), (16, 2, 128), (5, 5, 20)])
@pytest.mark.parametrize(("window", "block_size"), [(None, 7), (40, 16), (None, 1)])
def test_any_heads(shape: tuple[int, int, int], window: int | None, block_size: int) -> None:
    lens = [(1, 1), (9, 9), (140, 1), (77, 30)]
    assert_float32(Case(lens, shape=shape, window=window, block_size=block_size))


@pytest.mark.few(1)
@pytest.mark.parametrize("window", [None, 20])
def test_decode_rows_alone(window: int | None) -> None:
    assert_float32(Case(DECODE, window=window), 20.0)


@pytest.mark.parametrize("window", [None, 40])
def test_bfloat16_errs_only_by_rounding_the_result(window: int | None) -> None:
    """Inputs are exact and sums are float32, on a CPU."""
    case = Case(LENS, shape=(4, 2, 64), window=window, dtype=torch.bfloat16, seed=2)
    exact, lost = case.oracle(20.0), case.float32_error(20.0)
    half_step = torch.finfo(torch.bfloat16).eps / 2
    error = (case.run("flex", softcap=20.0).double() - exact).abs()
    assert (error <= lost + half_step * (exact.abs() + lost)).all()


def test_a_row_alone_is_the_row_in_a_batch() -> None:
    case = Case(LENS)
    together, error, start = case.run("flex"), case.float32_error(), 0
    for seq, (_, n) in enumerate(case.lens):
        rows = together[start : start + n]
        # Summed in other orders, so that each of the two has an error of its own.
        assert ((case.alone("flex", seq) - rows).abs() <= 2 * error[start : start + n]).all()
        start += n


def test_traced_it_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flex compiled by dynamo, as outside of these tests."""
    monkeypatch.setattr(flex_module, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", False, raising=False)
    assert_float32(Case(DECODE), 20.0)


def test_groups_change_nothing() -> None:
    case = Case([(90 + 7 * i, 1) for i in range(4)], shared=((0, 4, 0, 4),))
    assert torch.equal(case.run("flex", grouped=True), case.run("flex"))


def test_contexts_may_grow_under_a_plan() -> None:
    case = Case(DECODE[2:])
    meta = case.meta()

    def step() -> torch.Tensor:
        return paged_attention(case.q, case.k, case.v, meta, scale=case.scale, impl="flex")

    meta.context_lens -= 20
    earlier = step()
    meta.context_lens += 20
    meta.contexts_grew()
    assert torch.equal(step(), case.run("flex"))
    assert not torch.equal(step(), earlier)


@pytest.fixture
def reads_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read blocks in place, as on a device. Pools must be finite: eager flex computes all keys."""
    monkeypatch.setattr(block_masks, "_reads_in_place", lambda _: True)


def finite(case: Case) -> Case:
    """Replace NaN by ones, between the blocks too."""
    for name in ("k", "v"):
        pool = getattr(case, name)
        pool.as_strided((pool.untyped_storage().nbytes() // pool.itemsize,), (1,), 0).nan_to_num_(
            1.0
        )
    return case


@pytest.mark.few(1)
@pytest.mark.usefixtures("reads_in_place")
@pytest.mark.parametrize("stride", [1, 3])
@pytest.mark.parametrize("window", [None, 5, 64])
def test_in_place_it_is_the_same(window: int | None, stride: int) -> None:
    lens = [(1, 1), (33, 33), (130, 1), (40, 0), (64, 2), (111, 40)]
    assert_float32(finite(Case(lens, shape=(32, 2, 16), window=window, stride=stride)), 9.0)


@pytest.mark.usefixtures("reads_in_place")
@pytest.mark.parametrize("window", [None, 40])
def test_pages_listed_are_those_with_keys_and_all_their_slots_are_seen(window: int | None) -> None:
    """Kernels read what a BlockMask lists; eager flex reads all, and knows the mask alone."""
    case = Case([(1, 1), (33, 33), (130, 1), (64, 2), (111, 40)], window=window, stride=3)
    layout = block_masks.layout_of(case.q, case.k)
    mask = block_masks.plan_of(case.meta(), layout).in_place
    assert mask is not None
    rows, keys = mask.seq_lengths
    elements = mask.kv_indices.shape[0]
    visible = flex_module.create_mask(mask.mask_mod, elements, 1, rows, keys, device="cpu")
    seen_slots = visible.any(2).view(elements, -1, case.block_size)
    assert torch.equal(seen_slots.any(-1), seen_slots.all(-1))
    for element, pages in enumerate(seen_slots.any(-1)):
        listed = mask.kv_indices[element, 0, 0, : mask.kv_num_blocks[element, 0, 0]]
        assert sorted(listed.tolist()) == pages.nonzero().flatten().tolist()


def test_blocks_that_are_no_multiple_of_a_page_apart_are_copied() -> None:
    pool = torch.empty(4 * 40).as_strided((3, 2, 2, 4), (40, 8, 4, 1))
    assert block_masks._block_pages(pool) == 5
    assert block_masks._block_pages(pool.as_strided((3, 2, 2, 4), (20, 8, 4, 1))) == 0


@pytest.mark.parametrize("block_id", [-1, 99])
def test_a_block_outside_the_pool_is_refused(block_id: int) -> None:
    case = Case([(40, 1)])
    case.tables[0, 2] = block_id
    with pytest.raises(ValueError, match="needs 3 block ids within 0"):
        case.run("flex")
    case.tables = case.tables[:, :2]
    with pytest.raises(ValueError, match="needs 3 block ids"):
        case.run("flex")


def test_bad_arguments_are_refused() -> None:
    case = Case([(5, 5)])
    with pytest.raises(ValueError, match="softcap"):
        case.run("flex", softcap=-1.0)
    case.q = case.q[:3]
    with pytest.raises(ValueError, match="q has 3 rows"):
        case.run("flex")


def test_a_step_without_queries_is_empty() -> None:
    case = Case([(9, 0), (5, 0)])
    case.q = torch.empty(0, 4, 32)
    assert case.run("flex").shape == (0, 4, 32)


def test_torchs_kernel_says_why_it_cannot_run() -> None:
    if torch.cuda.is_available():
        assert "256" in str(reason_unavailable(16))
        return
    assert "CUDA" in str(reason_unavailable())
    case = Case([(5, 5)])
    with pytest.raises(RuntimeError, match="CUDA"):
        varlen_paged_attention(case.q, case.k, case.v, case.meta(), case.scale)


def tensors_there(case: Case) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """q and pools with the block stride of the case's."""
    return case.q.to(DEVICE), pool_on_device(case.k), pool_on_device(case.v)


def bfloat16_bound(case: Case) -> torch.Tensor:
    """A weight, each of two partial results and the result are rounded to 8 bits; the device's
    power of two errs by 2^-22 (PTX ISA, ex2.approx) where it counts for two units of float32."""
    exact, half_step = case.oracle(), torch.finfo(torch.bfloat16).eps / 2
    lost = 2 * case.float32_error() + ((1 + half_step) ** 2 - 1) * case.mean_sizes()
    return lost + half_step * (exact.abs() + lost)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("lens", [LENS, DECODE])
@pytest.mark.parametrize(("window", "block_size"), [(None, 16), (40, 16), (None, 7), (70, 256)])
def test_compiled_it_is_what_the_formula_says(
    lens: list[tuple[int, int]], window: int | None, block_size: int
) -> None:
    case = Case(
        lens, shape=(8, 2, 64), block_size=block_size, window=window, dtype=torch.bfloat16, stride=2
    )
    args = (*tensors_there(case), on_device(case.meta()))
    out = paged_attention(*args, scale=case.scale, impl="flex").cpu().double()
    assert ((out - case.oracle()).abs() <= bfloat16_bound(case)).all()


@pytest.mark.gpu
@pytest.mark.skipif(bool(reason_unavailable()), reason=str(reason_unavailable()))
@pytest.mark.parametrize("lens", [LENS, DECODE])
@pytest.mark.parametrize("window", [None, 40])
def test_torchs_kernel_agrees_with_the_formula(
    lens: list[tuple[int, int]], window: int | None
) -> None:
    shape = (8, 2, 64)
    case = finite(Case(lens, shape=shape, block_size=256, window=window, dtype=torch.bfloat16))
    args = (*tensors_there(case), on_device(case.meta()))
    out = varlen_paged_attention(*args, case.scale).cpu().double()
    assert ((out - case.oracle()).abs() <= bfloat16_bound(case)).all()
