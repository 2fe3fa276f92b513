"""Shared beginnings: counts equal those of a plain trie, near-linear in time."""

import random
import time
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thothy_batch.plan import block_hashes as chains_module
from thothy_batch.plan import chain_prompts, sharing_stats

# Few different tokens and small blocks: shared beginnings of every length occur.
PROMPTS = st.lists(st.lists(st.integers(0, 1), max_size=14), max_size=30)


def unique_tokens_of_a_trie(prompts: list[list[int]], block_size: int) -> int:
    """The definition, slowly: a full block counts once per different beginning up to it."""
    seen = set()
    total = 0
    for ids in prompts:
        shareable = max(len(ids) - 1, 0) // block_size
        for j in range(shareable):
            beginning = tuple(ids[: (j + 1) * block_size])
            total += 0 if beginning in seen else block_size
            seen.add(beginning)
        total += len(ids) - shareable * block_size
    return total


@given(PROMPTS, st.integers(1, 5))
def test_unique_tokens_equal_a_tries(prompts: list[list[int]], block_size: int) -> None:
    stats = sharing_stats(prompts, block_size=block_size)
    assert stats.prompt_tokens == sum(map(len, prompts))
    assert stats.unique_tokens == unique_tokens_of_a_trie(prompts, block_size)


@given(PROMPTS, st.integers(1, 5))
def test_hashes_agree_exactly_where_beginnings_do(
    prompts: list[list[int]], block_size: int
) -> None:
    chains = chain_prompts(prompts, block_size)
    beginnings: dict[int, tuple[int, ...]] = {}
    for i, ids in enumerate(prompts):
        for j, value in enumerate(chains.hashes[chains.starts[i] : chains.starts[i + 1]].tolist()):
            beginning = tuple(ids[: (j + 1) * block_size])
            assert beginnings.setdefault(value, beginning) == beginning
    assert len(set(beginnings.values())) == len(beginnings)


@given(PROMPTS)
def test_chunks_of_hashing_leave_no_mark(prompts: list[list[int]]) -> None:
    whole = chain_prompts(prompts, 2)
    parts = [chain_prompts([ids], 2).hashes.tolist() for ids in prompts]
    assert whole.hashes.tolist() == [value for part in parts for value in part]


def test_small_chunks_give_the_same_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(3)
    prompts = [[rng.randrange(9) for _ in range(rng.randrange(60))] for _ in range(200)]
    whole = chain_prompts(prompts, 4).hashes.tolist()
    monkeypatch.setattr(chains_module, "_CHUNK_TOKENS", 50)
    assert chain_prompts(prompts, 4).hashes.tolist() == whole
    assert chain_prompts(prompts, 4, [0] * len(prompts)).hashes.tolist() == whole


def test_prompts_of_different_kinds_share_nothing() -> None:
    prompt = list(range(12))
    chains = chain_prompts([prompt] * 4, 4, [0, 7, 0, 7])
    first, second, third, fourth = (set(part) for part in chains.hashes.reshape(4, 2).tolist())
    assert first == third
    assert second == fourth
    assert not first & second


def test_last_token_of_a_prompt_is_always_computed() -> None:
    stats = sharing_stats([[1] * 64, [1] * 64], block_size=32)
    assert (stats.num_blocks, stats.unique_tokens) == (2, 96)


def test_figures_of_four_jobs_over_one_document() -> None:
    document = list(range(100))
    prompts = [array("i", [*document, *[1000 + i] * 30]) for i in range(4)]
    stats = sharing_stats(prompts, block_size=32)
    # 3 of the 4 full blocks lie within the document.
    assert stats.unique_tokens == 4 * 130 - 3 * 3 * 32
    assert (stats.num_shared_blocks, stats.max_readers) == (3, 4)
    assert stats.as_json()["shared_fraction"] == round(288 / 520, 4)


@pytest.mark.parametrize("prompts", [[], [[]], [[], [1]]])
def test_nothing_to_share_is_no_error(prompts: list[list[int]]) -> None:
    stats = sharing_stats(prompts)
    assert stats.unique_tokens == stats.prompt_tokens
    assert stats.shared_fraction == 0.0


@pytest.mark.rest
def test_sharing_is_near_linear() -> None:
    rng = random.Random(0)
    head = [rng.randrange(5000) for _ in range(96)]
    prompts = [array("i", head + [rng.randrange(5000) for _ in range(100)]) for _ in range(40_000)]
    begin = time.process_time()
    sharing_stats(prompts[:10_000])
    quarter = time.process_time() - begin
    begin = time.process_time()
    sharing_stats(prompts)
    assert time.process_time() - begin < 12 * quarter + 0.5
