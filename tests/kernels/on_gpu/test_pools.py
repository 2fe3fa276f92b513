"""Blocks copied on the device, and pools of more elements than 32 bits count."""

import pytest
import torch
from attention_oracle import Case
from device_place import DEVICE, HALF, on_device, sizes

from thothy_kernels.block_copy import copy_blocks
from thothy_kernels.paged_attention import triton_impl as attention
from thothy_kernels.rope_and_write import triton_impl as rope

pytestmark = pytest.mark.gpu

K, P, D = 8, 32, 128
# 2^31 elements are 65,536 of such blocks: 4 GiB of keys, as much of values.
NUM_BLOCKS = sizes([2**31 // (K * P * D) + 64], [64])[0]


@pytest.fixture
def caches() -> tuple[torch.Tensor, torch.Tensor]:
    shape = (NUM_BLOCKS, K, P, D)
    k, v = (torch.full(shape, float("nan"), dtype=HALF, device=DEVICE) for _ in range(2))
    return k, v


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_layers", sizes([28, 32], [1]))
def test_blocks_of_whole_models_are_copied_and_the_others_left(
    num_layers: int, dtype: torch.dtype
) -> None:
    num_pairs = sizes([40], [2])[0]
    k = torch.randn(2 * num_pairs, num_layers * K, P, D, device=DEVICE).to(dtype)
    v = torch.randn_like(k)
    before = k.clone(), v.clone()
    src, dst = range(num_pairs), range(2 * num_pairs - 1, num_pairs - 1, -1)
    copy_blocks(k, v, src, dst, impl="triton")
    for cache, old in zip((k, v), before, strict=True):
        assert torch.equal(cache[:num_pairs], old[:num_pairs])
        assert torch.equal(cache[num_pairs:].flip(0), old[:num_pairs])


def test_far_blocks_are_copied(caches: tuple[torch.Tensor, torch.Tensor]) -> None:
    for cache in caches:
        cache[NUM_BLOCKS - 1] = 3.0
    copy_blocks(*caches, [NUM_BLOCKS - 1], [NUM_BLOCKS - 3], impl="triton")
    for cache in caches:
        assert (cache[NUM_BLOCKS - 3] == 3.0).all()
        assert cache[NUM_BLOCKS - 2].isnan().all()


def test_far_blocks_are_written(caches: tuple[torch.Tensor, torch.Tensor]) -> None:
    """Angles of 0 rotate nothing."""
    T, H = 5, 8
    qkv = torch.randn(T, (H + 2 * K) * D, device=DEVICE).to(HALF)
    table = torch.cat((torch.ones(9, D // 2), torch.zeros(9, D // 2)), 1).to(DEVICE)
    first = (NUM_BLOCKS - 1) * P
    slots = torch.arange(first, first + T, device=DEVICE)
    positions = torch.arange(T, device=DEVICE)
    rope.rope_and_write_kv(qkv, None, None, positions, table, *caches, slots, H, 1e-6, 0.0)
    _, k, v = qkv.view(T, H + 2 * K, D).split((H, K, K), 1)
    for cache, stored in zip(caches, (k, v), strict=True):
        assert torch.equal(cache[-1, :, :T].transpose(0, 1), stored)
        assert cache[-1, :, T:].isnan().all()
        assert cache[NUM_BLOCKS - 2].isnan().all()


def test_far_blocks_are_attended_to(caches: tuple[torch.Tensor, torch.Tensor]) -> None:
    """A small pool, and the same as the end of a large one: the same bits."""
    lens = sizes([(300, 1), (70, 20)], [(40, 1), (9, 3)])
    case = Case(lens, shape=(16, K, D), block_size=P, dtype=HALF)
    outputs = []
    for k, v in ((case.k.to(DEVICE), case.v.to(DEVICE)), caches):
        far = len(k) - len(case.k)
        k[far:], v[far:] = case.k.to(DEVICE), case.v.to(DEVICE)
        meta = case.meta()
        meta.block_tables[meta.block_tables >= 0] += far
        q = case.q.to(DEVICE)
        outputs.append(attention.paged_attention(q, k, v, on_device(meta), case.scale, 0.0))
    assert outputs[0].isfinite().all()
    assert torch.equal(*outputs)
