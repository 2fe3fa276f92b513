"""Greedy tokens equal the golden ones and transformers', however the work is scheduled."""

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch

from thothy_batch.engine.in_process import InProcessEngine
from thothy_batch.records import EngineSpec, ModelSpec, Request, RequestResult, Sampling

GREEDY = Sampling(max_tokens=64, ignore_eos=True, repetition_stop=False)

# Every way to schedule that must not show in the output. block_size 32 where nothing is said.
WAYS: dict[str, dict[str, Any]] = {
    "together": {"num_blocks": 400},
    "blocks-of-1-no-sharing": {"num_blocks": 9000, "block_size": 1, "prefix_sharing": False},
    "blocks-of-16-preempting": {
        "num_blocks": 40,
        "block_size": 16,
        "admission": "optimistic",
        "speculation": "off",  # which shortens a run, as far as the clock allows
    },
    "chunks-of-7": {"num_blocks": 200, "max_step_tokens": 7},
}
IMPLS = ("cpu", "reference")


def outputs(results: list[RequestResult]) -> list[tuple[int, ...]]:
    return [completion.token_ids for result in results for completion in result.completions]


@pytest.fixture(scope="module")
def stories(shared: Path) -> tuple[Path, list[dict[str, Any]]]:
    directory = shared / "data" / "weights" / "stories260K"
    lines = (directory / "golden_greedy.jsonl").read_text().splitlines()
    return directory, [json.loads(line) for line in lines]


def golden_requests(rows: list[dict[str, Any]], sampling: Sampling = GREEDY) -> list[Request]:
    return [
        Request(i, "", row["prompt_token_ids"], sampling, seed=1000 + i)
        for i, row in enumerate(rows)
    ]


@pytest.mark.few(1)
@pytest.mark.parametrize("way", WAYS)
def test_golden_tokens_come_out_however_they_are_scheduled(
    stories: tuple[Path, list[dict[str, Any]]], way: str, run_all: Any
) -> None:
    directory, rows = stories
    spec = EngineSpec(model=ModelSpec(id=str(directory)), impl="cpu", **WAYS[way])
    results, totals = run_all(spec, golden_requests(rows))
    for row, result in zip(rows, results, strict=True):
        assert list(result.completions[0].token_ids) == row["output_token_ids"], row["id"]
        assert result.completions[0].text.strip() == row["output_text"].strip()
    if way == "blocks-of-16-preempting":
        assert totals.num_preempted > 0
        assert totals.wasted_tokens > 0
        assert totals.wasted_tokens == sum(result.wasted_tokens for result in results)


def short(num_tokens: int) -> Sampling:
    return Sampling(max_tokens=num_tokens, ignore_eos=True, repetition_stop=False)


@pytest.mark.rest
@pytest.mark.parametrize("way", WAYS)
def test_golden_tokens_come_out_of_the_reference(
    stories: tuple[Path, list[dict[str, Any]]], way: str, run_all: Any
) -> None:
    """The reference is slow: all tokens in one way, the first of each row in the others."""
    directory, rows = stories
    num_tokens = 64 if way == "together" else 16
    spec = EngineSpec(model=ModelSpec(id=str(directory)), impl="reference", **WAYS[way])
    results, totals = run_all(spec, golden_requests(rows, short(num_tokens)))
    wanted = [tuple(row["output_token_ids"][:num_tokens]) for row in rows]
    assert outputs(results) == wanted
    rejected = totals.drafted_tokens - totals.accepted_tokens
    assert (totals.wasted_tokens > rejected) == (way == "blocks-of-16-preempting")


@pytest.mark.rest
def test_golden_tokens_come_out_in_shuffled_order(
    stories: tuple[Path, list[dict[str, Any]]], run_all: Any
) -> None:
    directory, rows = stories
    spec = EngineSpec(model=ModelSpec(id=str(directory)), impl="cpu", num_blocks=400, max_seqs=20)
    requests = golden_requests(rows)
    Random(7).shuffle(requests)
    results, _ = run_all(spec, requests)
    assert [list(ids) for ids in outputs(results)] == [row["output_token_ids"] for row in rows]


@pytest.mark.rest
@pytest.mark.parametrize(("impl", "num_tokens"), [("cpu", 64), ("reference", 8)])
def test_golden_tokens_come_out_of_a_row_alone(
    stories: tuple[Path, list[dict[str, Any]]], impl: str, num_tokens: int, run_all: Any
) -> None:
    directory, rows = stories
    spec = EngineSpec(model=ModelSpec(id=str(directory)), impl=impl, num_blocks=400, max_seqs=1)
    results, _ = run_all(spec, golden_requests(rows, short(num_tokens)))
    assert outputs(results) == [tuple(row["output_token_ids"][:num_tokens]) for row in rows]


SAMPLED = Sampling(
    temperature=0.9,
    top_p=0.95,
    top_k=40,
    max_tokens=32,
    repetition_penalty=1.1,
    repetition_stop=False,
)


@pytest.mark.rest
@pytest.mark.parametrize("impl", IMPLS)
def test_a_seed_gives_the_same_text_however_it_is_scheduled(
    stories: tuple[Path, list[dict[str, Any]]], impl: str, run_all: Any
) -> None:
    """Three samples of each prompt; with stop tokens, so that rows leave the batch early."""
    directory, rows = stories
    model = ModelSpec(id=str(directory))
    rows = rows[:: 3 if impl == "cpu" else 16]
    requests = [
        Request(i, "", row["prompt_token_ids"], SAMPLED, seed=31 * i, num_samples=3)
        for i, row in enumerate(rows)
    ]
    found = {
        way: run_all(EngineSpec(model=model, impl=impl, **settings), requests)
        for way, settings in WAYS.items()
    }
    texts = [[c.text for r in results for c in r.completions] for results, _ in found.values()]
    tokens = [outputs(results) for results, _ in found.values()]
    assert all(other == tokens[0] for other in tokens)
    assert all(other == texts[0] for other in texts)
    assert len(set(tokens[0])) > 2 * len(rows), "samples of one prompt differ"
    if impl == "cpu":
        assert found["blocks-of-16-preempting"][1].num_preempted > 0


class _Tap:
    """Stands before a model runner and keeps the logits of every row that samples."""

    def __init__(self, runner: Any) -> None:
        self._runner = runner
        self._forward: Callable[..., torch.Tensor] = runner.forward
        self.seen: dict[tuple[int, int], np.ndarray] = {}  # (seed, position) → logits
        runner.forward = self.forward

    def forward(self, batch: Any) -> torch.Tensor:
        logits = self._forward(batch)
        for row in range(len(batch.logits_rows)):
            key = int(batch.seeds[row]), int(batch.sample_positions[row])
            self.seen[key] = logits[row].numpy().copy()
        return logits


@pytest.mark.few(1)
@pytest.mark.parametrize("impl", IMPLS)
def test_logits_of_a_row_have_the_same_bits_alone_and_in_any_batch(
    stories: tuple[Path, list[dict[str, Any]]], impl: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, rows = stories
    rows = rows[:58:8]
    requests = golden_requests(rows, short(6))

    def logits_of(batches: list[list[Request]], **settings: Any) -> dict[tuple[int, int], Any]:
        spec = EngineSpec(model=ModelSpec(id=str(directory)), impl=impl, **settings)
        engine = InProcessEngine.start(spec)
        tap = _Tap(engine.engine._executor._launcher._runner)
        for batch in batches:
            engine.submit(batch)
            while engine.engine.has_work:
                engine.poll(60.0)
        return tap.seen

    alone = logits_of([[request] for request in requests], num_blocks=64, prefix_sharing=False)
    ways = (
        logits_of([requests], num_blocks=400),
        logits_of([requests[::-1]], num_blocks=800, block_size=1, max_step_tokens=7),
        logits_of([requests], num_blocks=45, block_size=16, admission="optimistic"),
    )
    assert len(alone) == 6 * len(requests)
    for seen in ways:
        assert seen.keys() == alone.keys()
        for key, logits in alone.items():
            assert seen[key].tobytes() == logits.tobytes(), f"seed, position {key}"
