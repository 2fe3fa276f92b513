"""Sharing in real traces is found: by their own block ids, block by block."""

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from thothy_batch.plan import plan_requests, request_key, sharing_stats
from thothy_batch.records import Request, Sampling

BLOCK = 2  # tokens that stand for one block of a trace


def rows_of(shared: Path, name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(shared / f"data/traces/{name}.parquet").to_pylist()
    return rows


def planned(prompts: list[list[int]], block_size: int, policy: str = "auto") -> Any:
    sampling = Sampling(max_tokens=1)
    requests = [Request(i, "", prompt, sampling) for i, prompt in enumerate(prompts)]
    return plan_requests(requests, policy, block_size=block_size)


@pytest.mark.few(1)
@pytest.mark.parametrize("policy", ["auto", "prefix"])
def test_mooncake_shares_what_its_hash_ids_say(shared: Path, policy: str) -> None:
    rows = rows_of(shared, "mooncake_conversation")
    # One more token each: the last token of a prompt is always computed.
    prompts = [[h for h in row["hash_ids"] for _ in range(BLOCK)] + [0] for row in rows]
    num_blocks = sum(len(row["hash_ids"]) for row in rows)
    distinct = len({h for row in rows for h in row["hash_ids"]})
    assert (num_blocks, distinct) == (288_500, 182_790)
    stats = sharing_stats(prompts, block_size=BLOCK)
    assert (stats.num_blocks, stats.num_unique_blocks) == (num_blocks, distinct)
    plan = planned(prompts, BLOCK, policy)
    assert plan.computed_prompt_tokens == distinct * BLOCK + len(rows)
    assert plan.prompt_tokens == num_blocks * BLOCK + len(rows)
    # Every reader of a prefix is counted, and sees it where the trace does.
    readers = Counter(h for row in rows for h in row["hash_ids"])
    for row, path in zip(rows, plan.prefixes, strict=True):
        ids = row["hash_ids"]
        assert (path[-1].end if path else 0) == BLOCK * sum(readers[h] > 1 for h in ids)
        assert [p.num_readers for p in path] == [readers[ids[p.end // BLOCK - 1]] for p in path]
    assert plan.num_levels > 2, "the tree is deeper than attention groups are"


def offline_prompts(shared: Path, name: str) -> list[list[int]]:
    """As long as they were; tokens of a block are its id, which stands for all before it too."""
    rows = rows_of(shared, f"servegen_offline_{name}_sample")
    return [[h for h in row["hash_ids"] for _ in range(16)][: row["prompt_tokens"]] for row in rows]


@pytest.mark.parametrize("block_size", [16, 32])
def test_the_dictionary_jobs_common_160_tokens_are_found(shared: Path, block_size: int) -> None:
    prompts = offline_prompts(shared, "a_dictionary_translation")
    plan = planned(prompts, block_size)
    for path in plan.content:
        assert [(prefix.end, prefix.num_readers) for prefix in path] == [(160, len(prompts))]
    assert plan.computed_prompt_tokens == plan.prompt_tokens - 160 * (len(prompts) - 1)


def test_the_text_generation_jobs_repeated_blocks_are_found(shared: Path) -> None:
    rows = rows_of(shared, "servegen_offline_b_text_generation_sample")
    ids = [h for row in rows for h in row["hash_ids"]]
    assert (len(ids), len(set(ids))) == (670, 306)
    # The block with the last token is computed by everybody, shared or not.
    before = [h for row in rows for h in row["hash_ids"][: (row["prompt_tokens"] - 1) // 16]]
    num_repeats = len(before) - len(set(before))
    plan = planned(offline_prompts(shared, "b_text_generation"), 16)
    assert plan.prompt_tokens == sum(row["prompt_tokens"] for row in rows)
    assert plan.computed_prompt_tokens == plan.prompt_tokens - 16 * num_repeats
    assert num_repeats > len(before) // 2


def test_whole_prompts_that_repeat_have_one_key_and_are_computed_once(shared: Path) -> None:
    """Within the sample no prompt repeats another; a second job with the same rows repeats all."""
    prompts = offline_prompts(shared, "b_text_generation")
    sampling, by_key = Sampling(max_tokens=1), dict[str, list[int]]()
    for prompt in [*prompts, *prompts]:
        key = request_key(
            model_fingerprint="model",
            prompt_token_ids=prompt,
            sampling=sampling,
            num_samples=1,
            kind_hash="kind",
        )
        assert by_key.setdefault(key, prompt) == prompt
    assert list(by_key.values()) == prompts
    assert len({tuple(prompt) for prompt in prompts}) == len(prompts) == 126
