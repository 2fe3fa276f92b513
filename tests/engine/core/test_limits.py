"""Requests that can never run, and the smallest pool that fits them."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from layouts import uniform_layout

from thothy_batch.engine.core.kv_layout import KVLayout
from thothy_batch.engine.core.limits import Limits, blocks_needed, why_unfit
from thothy_batch.records import LayerGroup, Request, Sampling

LIMITS = Limits(100, uniform_layout(16), 2048, 5)


def request(prompt_len: int, max_tokens: int, num_samples: int = 1) -> Request:
    return Request(0, "", [1] * prompt_len, Sampling(max_tokens=max_tokens), 0, num_samples)


@pytest.mark.parametrize(
    ("prompt_len", "max_tokens", "num_samples", "blocks"),
    [(32, 32, 1, 2), (32, 33, 1, 3), (33, 31, 1, 2), (33, 31, 3, 4), (64, 10, 4, 6), (0, 1, 1, 1)],
)
def test_blocks_of_the_prompt_are_shared_by_samples(
    prompt_len: int, max_tokens: int, num_samples: int, blocks: int
) -> None:
    limits = replace(LIMITS, layout=uniform_layout(32))
    assert blocks_needed(request(prompt_len, max_tokens, num_samples), limits) == blocks


def test_the_message_names_the_numbers_and_the_smallest_pool() -> None:
    assert why_unfit(request(95, 6), LIMITS) == (
        "prompt of 95 tokens + max_tokens 6 is more than the model's context of 100 tokens"
    )
    assert why_unfit(request(40, 20, num_samples=4), LIMITS) == (
        "prompt of 40 tokens + max_tokens 20 x 4 samples is more than the KV pool of 80 tokens; "
        "the smallest that would take it holds 160 (10 blocks of 16)"
    )


def test_a_request_that_fits_exactly_is_accepted() -> None:
    assert not why_unfit(request(60, 40), replace(LIMITS, num_blocks=7))
    assert why_unfit(request(60, 40), replace(LIMITS, num_blocks=6))


def test_an_unknown_pool_refuses_no_request() -> None:
    assert not why_unfit(request(60, 40, num_samples=50), replace(LIMITS, num_blocks=None))


@given(
    st.integers(1, 60),
    st.integers(1, 40),
    st.integers(1, 4),
    st.sampled_from([1, 4, 16]),
    st.booleans(),
)
def test_a_request_fits_the_smallest_pool_and_not_one_block_less(
    prompt_len: int, max_tokens: int, num_samples: int, block_size: int, windowed: bool
) -> None:
    groups = (LayerGroup((0, 1)), LayerGroup((2, 3, 4), 9)) if windowed else (LayerGroup((0,)),)
    limits = Limits(100, KVLayout(groups, block_size), 64, None)
    asked = request(prompt_len, max_tokens, num_samples)
    smallest = blocks_needed(asked, limits)
    assert not why_unfit(asked, replace(limits, num_blocks=smallest))
    assert why_unfit(asked, replace(limits, num_blocks=smallest - 1))
