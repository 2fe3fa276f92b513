"""Bounds of sampling settings hold alike in a manifest, in a kind file and in a resolved row."""

from typing import Any

import pytest

from thothy_batch.choices import MAX_COUNT, MAX_SEED, SAMPLING_BOUNDS
from thothy_batch.kinds.kind import Kind, Stage
from thothy_batch.kinds.kind_file import SamplingDefaults
from thothy_batch.kinds.resolve import InvalidValueError, resolve_sampling
from thothy_batch.manifest.sections import SamplingSettings

KIND = Kind("k", "hash", "item", (Stage("only"),))
EDGES: dict[str, tuple[list[Any], list[Any]]] = {  # within, outside
    "temperature": ([0, 2.5], [-0.1]),
    "top_p": ([1e-9, 1], [0, 1.1]),
    "top_k": ([0, MAX_COUNT], [-1, MAX_COUNT + 1]),
    "max_tokens": ([1, MAX_COUNT], [0, MAX_COUNT + 1]),
    "repetition_penalty": ([1e-9, 9], [0, -1]),
    "seed": ([0, MAX_SEED], [-1, MAX_SEED + 1]),
}


def _accepts(where: str, name: str, value: object) -> bool:
    try:
        if where == "row":
            resolve_sampling(KIND, {name: value})
        elif where == "kind":
            SamplingDefaults.model_validate({name: value})
        else:
            SamplingSettings.model_validate({name: value})
    except (ValueError, InvalidValueError):
        return False
    return True


def test_every_bound_is_tried() -> None:
    assert set(EDGES) == set(SAMPLING_BOUNDS)


@pytest.mark.parametrize("name", EDGES)
@pytest.mark.parametrize("where", ["manifest", "kind", "row"])
def test_bounds_hold_everywhere(where: str, name: str) -> None:
    if where == "kind" and name == "seed":
        assert not _accepts(where, name, 1), "a kind draws with the seed of its job"
        return
    within, outside = EDGES[name]
    assert all(_accepts(where, name, value) for value in within)
    assert not any(_accepts(where, name, value) for value in outside)
