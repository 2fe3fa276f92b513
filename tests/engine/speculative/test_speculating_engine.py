"""The engine with prompt lookup on real models: outputs equal those of single steps."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from thothy_batch.engine.cost.step_times import StepTimes
from thothy_batch.records import EngineSpec, ModelSpec

EMBEDDED = Path(__file__).parents[3] / "sample_data" / "model"


@pytest.fixture
def drafts_always_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step takes a second whatever its tokens: no clock of this machine decides."""
    monkeypatch.setattr(StepTimes, "least_seconds", lambda self, num_tokens: 1.0)
    monkeypatch.setattr(StepTimes, "most_tokens", 10_000)
    monkeypatch.setattr(StepTimes, "seconds", lambda self, first, last: np.ones(last - first + 1))


@pytest.mark.few(1)
@pytest.mark.parametrize("quantization", ["none", "int8"])
@pytest.mark.parametrize("impl", ["cpu", "reference"])
@pytest.mark.usefixtures("drafts_always_pay")
def test_tokens_are_those_without_drafts(
    impl: str, quantization: str, request_of: Callable[..., Any], run_all: Any
) -> None:
    """Greedy sequences verify drafts beside sampled and penalized ones.

    In float32 no operation's bits depend on the rest of the step.
    """
    model = ModelSpec(id=str(EMBEDDED), quantization=quantization)
    requests = [
        request_of(
            number,
            [(number * 37 + i * 11) % 1900 + 100 for i in range(12 + number)],
            60,
            ignore_eos=True,
            temperature=0.8 if number % 4 == 3 else 0.0,
            repetition_penalty=1.2 if number % 4 == 2 else 1.0,
            num_samples=2 if number == 7 else 1,
        )
        for number in range(8)
    ]
    outputs, totals = {}, {}
    for way in ("auto", "off"):
        spec = EngineSpec(model, device="cpu", impl=impl, num_blocks=120, speculation=way)
        results, totals[way] = run_all(spec, requests)
        outputs[way] = [[c.token_ids for c in result.completions] for result in results]
    assert outputs["auto"] == outputs["off"]
    drafted, accepted = totals["auto"].drafted_tokens, totals["auto"].accepted_tokens
    assert 0 < accepted < drafted, "right and wrong guesses have to occur"
    assert totals["off"].drafted_tokens == 0
