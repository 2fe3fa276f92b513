"""copy_blocks copies whole blocks, and refuses what would depend on an order."""

import pytest
import torch

from thothy_kernels.block_copy import copy_blocks

IMPLS = ("reference", "cpu")


def _caches(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(6, 2, 4, 8, generator=generator).to(dtype) for _ in range(2)]


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("as_tensor", [False, True])
def test_blocks_are_copied_and_the_others_left(dtype, impl, as_tensor):
    caches = _caches(dtype)
    before = [cache.clone() for cache in caches]
    ids = ([0, 3, 0], [5, 1, 2])
    copy_blocks(*caches, *(map(torch.tensor, ids) if as_tensor else ids), impl=impl)
    for cache, old in zip(caches, before, strict=True):
        assert torch.equal(cache, old[[0, 3, 0, 3, 4, 0]])
    copy_blocks(*caches, [], [], impl=impl)


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
        ("there are reference, cpu", (k, v, "gpu")),
    ):
        with pytest.raises(ValueError, match=message):
            copy_blocks(*bad[:2], [0], [1], impl=bad[2])
