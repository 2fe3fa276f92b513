"""Identities: everything that changes a completion changes the key, and nothing else does."""

import dataclasses
import random
from array import array
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thothy_batch.plan import artifact_id, request_key, row_seed
from thothy_batch.plan import keys as keys_module
from thothy_batch.records import Sampling

BASE: dict[str, Any] = {
    "model_fingerprint": "model",
    "prompt_token_ids": [1, 2, 3],
    "sampling": Sampling(temperature=0.8),
    "num_samples": 1,
    "kind_hash": "kind",
    "output_schema": {"format": "text", "sections": []},
    "run_seed": 0,
}


def key(**changes: Any) -> str:
    return request_key(**{**BASE, **changes})


def test_key_is_stable_from_version_to_version() -> None:
    # A change of this value makes every artifact of every store anew: raise KEY_VERSION for it.
    assert key() == "d966b053d1fcc5640b3c2638f237f498"


def test_key_is_32_hex_characters() -> None:
    assert len(key()) == 32
    assert set(key()) <= set("0123456789abcdef")


@pytest.mark.parametrize(
    "change",
    [
        {"model_fingerprint": "other"},
        {"prompt_token_ids": [1, 2, 4]},
        {"prompt_token_ids": [1, 2]},
        {"prompt_token_ids": [1, 2, 3, 0]},
        {"num_samples": 2},
        {"kind_hash": "other"},
        {"output_schema": {"format": "lines", "sections": []}},
        {"output_schema": None},
        {"run_seed": 1},
        *(
            {"sampling": dataclasses.replace(BASE["sampling"], **change)}
            for change in (
                {"temperature": 0.7},
                {"top_p": 0.9},
                {"top_k": 5},
                {"max_tokens": 127},
                {"stop": ("\n",)},
                {"stop_token_ids": (7,)},
                {"ignore_eos": True},
                {"seed": 0},
                {"repetition_penalty": 1.1},
                {"repetition_stop": False},
            )
        ),
    ],
)
def test_whatever_changes_the_answer_changes_the_key(change: dict[str, Any]) -> None:
    assert key(**change) != key()


def test_every_field_of_sampling_is_in_the_key() -> None:
    # A field that is added to Sampling has to be added to the test above.
    assert {field.name for field in dataclasses.fields(Sampling)} == {
        "temperature",
        "top_p",
        "top_k",
        "max_tokens",
        "stop",
        "stop_token_ids",
        "ignore_eos",
        "seed",
        "repetition_penalty",
        "repetition_stop",
    }


@pytest.mark.parametrize("first", [int, float])
def test_a_number_has_one_key_whole_or_not(first: type) -> None:
    """In either order: what a state was first made for must not decide what it says."""
    numbers = {"temperature": 2, "top_p": 1, "repetition_penalty": 3}
    both = [first, ({int, float} - {first}).pop()]
    made = [Sampling(**{n: kind(v) for n, v in numbers.items()}) for kind in both]
    keys_module._settings_state.cache_clear()
    whole_cache = [key(sampling=sampling) for sampling in made]
    keys_module._settings_state.cache_clear()
    assert key(sampling=made[1]) == whole_cache[0] == whole_cache[1]

    keys_module._settings_state.cache_clear()
    zero = key(sampling=Sampling())
    keys_module._settings_state.cache_clear()
    assert key(sampling=Sampling(temperature=-0.0)) == zero


def test_run_seed_counts_only_where_it_decides_the_draw() -> None:
    greedy = Sampling(temperature=0)
    assert key(sampling=greedy, run_seed=1) == key(sampling=greedy, run_seed=2)
    seeded = Sampling(temperature=0.8, seed=5)
    assert key(sampling=seeded, run_seed=1) == key(sampling=seeded, run_seed=2)
    assert key(run_seed=1) != key(run_seed=2)


@pytest.mark.parametrize("change", [{"seed": 7}, {"top_p": 0.5}, {"top_k": 3}])
def test_what_shapes_only_draws_does_not_count_at_temperature_0(change: dict[str, Any]) -> None:
    greedy = Sampling(temperature=0)
    assert key(sampling=dataclasses.replace(greedy, **change)) == key(sampling=greedy)


@given(st.lists(st.integers(0, 2**31 - 1), max_size=40))
def test_key_is_the_same_for_every_container_of_the_ids(ids: list[int]) -> None:
    forms = [ids, tuple(ids), array("i", ids), np.array(ids, dtype=np.int64)]
    assert len({key(prompt_token_ids=form) for form in forms}) == 1


@given(st.lists(st.lists(st.integers(0, 3), max_size=6), max_size=8))
def test_different_prompts_never_share_a_key(prompts: list[list[int]]) -> None:
    keys = {key(prompt_token_ids=ids) for ids in prompts}
    assert len(keys) == len({tuple(ids) for ids in prompts})


def test_seeds_are_63_bits_and_follow_seed_key_and_attempt() -> None:
    seeds = [row_seed(seed, None, f"key{i}") for seed in range(4) for i in range(50)]
    assert len(set(seeds)) == 200
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert max(seeds) > 2**62
    assert row_seed(0, 3, "key") == row_seed(9, 3, "key") == row_seed(3, None, "key")
    assert row_seed(0, None, "key", attempt=2) != row_seed(0, None, "key")


def test_artifact_ids_tell_job_item_and_variant_apart() -> None:
    rng = random.Random(1)
    names = ["a", "b", "ab", "", '"', "a,b", "ä"]
    parts = {tuple(rng.choice(names) for _ in range(4)) for _ in range(500)}
    ids = {artifact_id(*part) for part in parts}
    assert len(ids) == len(parts)
    assert all(len(i) == 32 for i in ids)


def test_who_may_be_drawn_after_all_counts_what_shapes_draws() -> None:
    """A greedy row of a kind that names a temperature for another attempt."""
    for name, value in (("seed", 7), ("top_p", 0.5), ("top_k", 3)):
        greedy, other = Sampling(), dataclasses.replace(Sampling(), **{name: value})
        assert key(sampling=greedy) == key(sampling=other)
        assert key(sampling=greedy, may_draw=True) != key(sampling=other, may_draw=True)
    assert key(sampling=Sampling(), may_draw=True) != key(
        sampling=Sampling(), may_draw=True, run_seed=1
    )
