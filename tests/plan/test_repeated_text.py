"""Text that stands elsewhere than at the beginning is found, and nothing else is."""

from random import Random

import pytest

from thothy_batch.plan import repeated_text

RANDOM = Random(11)
DOCS = [[RANDOM.randrange(50_000) for _ in range(800)] for _ in range(12)]
TASKS = [[RANDOM.randrange(50_000) for _ in range(20)] for _ in range(4)]


def test_a_document_behind_its_instruction_is_found_and_laid_at_its_jobs_door() -> None:
    prompts = [task + doc for doc in DOCS for task in TASKS]
    owners = [f"job-{t}" for _ in DOCS for t in range(len(TASKS))]
    found = repeated_text(prompts, [0] * len(prompts), owners)
    assert found.tokens == pytest.approx(3 * 12 * 800, rel=0.15)
    assert set(found.by_owner) == set(owners)
    assert sum(found.by_owner.values()) == pytest.approx(found.tokens, abs=4)


def test_what_is_shared_at_the_beginning_is_no_repeat() -> None:
    prompts = [doc + task for doc in DOCS for task in TASKS]
    found = repeated_text(prompts, [800] * len(prompts), ["job"] * len(prompts))
    assert found.tokens == 0


def test_prompts_without_anything_in_common_repeat_nothing() -> None:
    assert repeated_text(DOCS, [0] * len(DOCS), ["job"] * len(DOCS)).tokens == 0
    assert repeated_text([], [], []).tokens == 0
    assert repeated_text([[1] * 10], [0], ["job"]).tokens == 0


def test_a_prompt_that_repeats_itself_is_no_finding() -> None:
    assert repeated_text([DOCS[0] * 3], [0], ["job"]).tokens == 0
