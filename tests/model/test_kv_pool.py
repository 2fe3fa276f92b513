"""Blocks of layer groups within one row of units."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from thothy_batch.model.config.model_config import ModelConfig, layer_groups, load_config
from thothy_batch.model.kv_pool import KVPool

# 5 layers, of them 2 full; 4 layers, all full or all sliding where uniform.
VARIANTS = ["llama", "mistral-window", "ministral-mixed", "gemma3-1b-heads"]


@pytest.fixture(params=VARIANTS)
def config(
    request: pytest.FixtureRequest, make_checkpoint: Callable[..., tuple[Path, Any]]
) -> ModelConfig:
    return load_config(make_checkpoint(request.param)[0])


def _numbered(config: ModelConfig, num_pages: int, **more: Any) -> KVPool:
    """A pool in which every element of a unit is the unit's number, negative in v."""
    pool = KVPool.allocate(config, num_pages, 4, "float32", **more)
    numbers = torch.arange(len(pool.k), dtype=torch.float32)[:, None, None, None]
    pool.k.copy_(numbers.expand_as(pool.k))
    pool.v.copy_(-numbers.expand_as(pool.v))
    return pool


def test_a_block_is_as_many_units_side_by_side_as_its_group_has_layers(
    config: ModelConfig,
) -> None:
    pool = _numbered(config, 3)
    for group in layer_groups(config):
        num_layers = len(group.layers)
        for place, layer in enumerate(group.layers):
            k, v = pool.k_of(layer), pool.v_of(layer)
            assert k.shape == v.shape == (len(pool.k) // num_layers, *pool.k.shape[1:])
            assert k[0].is_contiguous()
            assert k[:, 0, 0, 0].tolist() == list(range(place, len(pool.k), num_layers))
            assert torch.equal(v, -k)


def test_a_large_page_holds_whole_blocks_of_every_group(config: ModelConfig) -> None:
    units = len(KVPool.allocate(config, 1, 4, "bfloat16").k)
    sizes = [len(group.layers) for group in layer_groups(config)]
    assert all(units % size == 0 for size in sizes)
    assert not any(all(less % size == 0 for size in sizes) for less in range(1, units))
    assert len(KVPool.allocate(config, 7, 4, "bfloat16").k) == 7 * units


@pytest.mark.parametrize("impl", ["reference", "cpu"])
def test_a_copy_moves_all_layers_of_a_block_and_nothing_else(
    config: ModelConfig, impl: str
) -> None:
    for number, group in enumerate(layer_groups(config)):
        pool = _numbered(config, 5, impl=impl)
        expected = list(range(len(pool.k)))
        num_layers = len(group.layers)
        for place in range(num_layers):
            for target in (3, 1):
                expected[target * num_layers + place] = 2 * num_layers + place
        pool.copy_blocks(number, [(2, 3), (2, 1)])
        assert pool.k[:, -1, -1, -1].tolist() == expected
        assert torch.equal(pool.v, -pool.k)
