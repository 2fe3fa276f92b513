"""copy_blocks copies whole blocks, and refuses ids whose result would depend on the order."""

import pytest
import torch

from thothy_kernels.block_copy import copy_blocks, triton_impl

IMPLS = ("reference", "cpu", "triton")
DEVICES = {"reference": "cpu", "cpu": "cpu", "triton": "cpu"}
if torch.cuda.is_available():
    DEVICES["triton"] = "cuda"


def _caches(dtype=torch.float32, impl="cpu", block=(2, 4, 8)):
    generator = torch.Generator().manual_seed(0)
    caches = [torch.randn(6, *block, generator=generator) for _ in range(2)]
    return [cache.to(DEVICES[impl], dtype) for cache in caches]


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("as_tensor", [False, True])
def test_blocks_are_copied_and_the_others_left(dtype, impl, as_tensor):
    caches = _caches(dtype, impl)
    before = [cache.clone() for cache in caches]
    ids = ([0, 3, 0], [5, 1, 2])
    copy_blocks(*caches, *(map(torch.tensor, ids) if as_tensor else ids), impl=impl)
    for cache, old in zip(caches, before, strict=True):
        assert torch.equal(cache, old[[0, 3, 0, 3, 4, 0]])
    copy_blocks(*caches, [], [], impl=impl)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("block", [(1, 1, 1), (3, 5, 7), (3, 16, 128)])
def test_blocks_of_any_size_lie_apart_and_nothing_between_them_is_touched(block, dtype, impl):
    """Views of one layer among others; a block of 24 kB takes three programs."""
    pools = [torch.full((6, 2, *block), torch.nan, dtype=dtype, device=DEVICES[impl])] * 2
    pools = [pool.clone() for pool in pools]
    views = [pool[:, 1] for pool in pools]
    old = _caches(dtype, impl, block)
    for view, values in zip(views, old, strict=True):
        view.copy_(values)
    copy_blocks(*views, [4, 4, 1], [0, 5, 2], impl=impl)
    for pool, view, values in zip(pools, views, old, strict=True):
        assert torch.equal(view, values[[4, 1, 1, 3, 4, 4]])
        assert pool[:, 0].isnan().all()


def test_bits_are_copied_whatever_they_mean():
    """NaN of all kinds in bfloat16, and bytes."""
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(2, 8, 32, 128)
    for dtype in (torch.bfloat16, torch.int8):
        caches = [bits.clone().view(dtype).to(DEVICES["triton"]) for _ in range(2)]
        copy_blocks(*caches, [0], [1], impl="triton")
        for cache in caches:
            words = cache.view(torch.int16).cpu()
            assert torch.equal(words[1], bits[0])
            assert torch.equal(words[0], bits[0])


def test_keys_and_values_may_lie_at_other_distances_and_must_be_contiguous_in_triton():
    k, v = _caches(impl="triton")
    apart = torch.full((6, 3, 2, 4, 8), torch.nan, device=k.device)
    apart[:, 2] = v
    copy_blocks(k, apart[:, 2], [0], [3], impl="triton")
    assert torch.equal(apart[3, 2], v[0])
    assert torch.equal(k[3], k[0])
    assert apart[:, :2].isnan().all()
    with pytest.raises(ValueError, match="contiguous"):
        copy_blocks(k.transpose(2, 3), v.transpose(2, 3), [0], [3], impl="triton")
    triton_impl.copy_blocks(k[:, :0], v[:, :0], [0], [3])


@pytest.mark.parametrize(
    ("src", "dst", "message"),
    [
        ([0], [1, 2], "1 src_ids, but 2 dst_ids"),
        ([0], [6], "must lie in 0 .. 5"),
        ([-1], [2], "must lie in 0 .. 5"),
        ([0, 1], [2, 2], "named twice"),
        ([0, 1], [1, 2], "in src_ids too"),
    ],
)
def test_ids_that_make_no_sense_are_refused(src, dst, message):
    with pytest.raises(ValueError, match=message):
        copy_blocks(*_caches(), src, dst, impl="cpu")


def test_bad_arguments_are_refused_by_name():
    k, v = _caches()
    for message, bad in (
        ("k_cache is", (k[0], v, "cpu")),
        ("v_cache is", (k, v[:2], "cpu")),
        ("there are reference, cpu, triton", (k, v, "gpu")),
    ):
        with pytest.raises(ValueError, match=message):
            copy_blocks(*bad[:2], [0], [1], impl=bad[2])
