"""write_kv puts each token in its slot, and nothing anywhere else."""

import pytest
import torch

from thothy_kernels.kv_write import write_kv

IMPLS = ("reference", "cpu")


def _inputs(dtype=torch.float32, T=9, K=3, D=20, B=6, P=4):
    generator = torch.Generator().manual_seed(0)
    k, v = (torch.randn(T, K, D, generator=generator).to(dtype) for _ in range(2))
    k_cache, v_cache = (torch.full((B, K, P, D), torch.nan, dtype=dtype) for _ in range(2))
    slots = torch.randperm(B * P, generator=generator)[:T]
    slots[[2, 5]] = -1
    return k, v, k_cache, v_cache, slots


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tokens_land_in_their_slots_and_padding_is_skipped(dtype, impl):
    k, v, k_cache, v_cache, slots = _inputs(dtype)
    write_kv(k, v, k_cache, v_cache, slots, impl=impl)
    for tokens, cache in ((k, k_cache), (v, v_cache)):
        by_slot = cache.transpose(1, 2).flatten(0, 1)  # [B * P, K, D]
        for t, slot in enumerate(slots.tolist()):
            if slot >= 0:
                assert torch.equal(by_slot[slot], tokens[t])
        untouched = sorted(set(range(24)) - set(slots.tolist()))
        assert by_slot[untouched].isnan().all()


@pytest.mark.parametrize("impl", IMPLS)
def test_tokens_may_be_views_of_merged_projections(impl):
    k, v, k_cache, v_cache, slots = _inputs()
    expected = k_cache.clone(), v_cache.clone()
    write_kv(k, v, *expected, slots, impl="reference")
    merged = torch.cat((k, v), dim=1)
    write_kv(merged[:, :3], merged[:, 3:], k_cache, v_cache, slots, impl=impl)
    for cache, wanted in zip((k_cache, v_cache), expected, strict=True):
        assert torch.equal(cache.nan_to_num(9.0), wanted.nan_to_num(9.0))
    write_kv(k[:0], v[:0], k_cache, v_cache, slots[:0], impl=impl)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("slot", [-2, 24])
def test_slots_outside_the_pool_are_refused_before_anything_is_written(impl, slot):
    k, v, k_cache, v_cache, slots = _inputs()
    slots[8] = slot
    with pytest.raises(ValueError, match="outside -1 .. 23"):
        write_kv(k, v, k_cache, v_cache, slots, impl=impl)
    assert k_cache.isnan().all()


def test_bad_arguments_are_refused_by_name():
    k, v, k_cache, v_cache, slots = _inputs()
    for message, bad in (
        ("k is torch.float64", (k.double(), v, k_cache, v_cache, slots, "cpu")),
        ("v is", (k, v[:, :2], k_cache, v_cache, slots, "cpu")),
        ("k_cache is", (k, v, k_cache[:, :2], v_cache, slots, "cpu")),
        ("v_cache is", (k, v, k_cache, v_cache[:2], slots, "cpu")),
        ("the caches", (k, v, k_cache.bfloat16(), v_cache, slots, "cpu")),
        ("contiguous", (k, v, k_cache[:, :, ::2], v_cache[:, :, ::2], slots, "cpu")),
        ("slot_mapping is", (k, v, k_cache, v_cache, slots.int(), "cpu")),
        ("there are reference, cpu", (k, v, k_cache, v_cache, slots, "gpu")),
    ):
        with pytest.raises(ValueError, match=message):
            write_kv(*bad[:5], impl=bad[5])
