"""Figures of `bench` add up, and incomparable ones are errors."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from bench_cases import FAKE, VOCAB, assert_adds_up, run_fake

from thothy_batch.bench import measure
from thothy_batch.bench.compute import compute
from thothy_batch.bench.measure import run_bench
from thothy_batch.bench.workload import Lengths, documents_workload, greedy, lengths_workload
from thothy_batch.cli.render_bench import bench_blocks
from thothy_batch.engine.builder import build_engine
from thothy_batch.engine.cost.measurement_cache import MeasurementCache, device_name
from thothy_batch.engine.llm_engine import LLMEngine
from thothy_batch.errors import EngineError
from thothy_batch.records import (
    Completion,
    DeviceLimits,
    EngineSpec,
    FinishReason,
    ModelSpec,
    RequestResult,
)
from thothy_batch.report.layout import to_text

ROOT = Path(__file__).resolve().parents[2]
TINY = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
}


@pytest.fixture
def tiny(tmp_path: Path) -> ModelSpec:
    """A model of random weights, on a device whose limits are in the measurement cache."""
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    flops = {"float32": 1e11, "bfloat16": 2e11}
    threads = torch.get_num_threads()
    figures = DeviceLimits(device_name(), threads, flops, 2e10, "2026-11-22T22:30:00+00:00")
    MeasurementCache().store_device(figures)
    return ModelSpec(str(tmp_path), random_weights=True)


def test_a_real_model_gets_its_share_of_the_roofline(tiny: ModelSpec) -> None:
    made = documents_workload(
        3, document_tokens=64, artifacts=3, lengths=Lengths.parse("5/4-8"), vocab_size=96
    )
    figures = run_bench(EngineSpec(tiny), made.requests, seed=4)
    assert_adds_up(figures, made)
    assert figures.roofline_fraction is not None
    assert 0 < figures.roofline_fraction < 1
    assert (figures.device_name, figures.impl, figures.seed) == (device_name(), "cpu", 4)
    assert figures.prefill_tokens == figures.planned_prompt_tokens == 3 * (64 + 3 * 5)
    json.dumps(figures.as_json(), allow_nan=False)


def test_notes_of_the_engine_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def noting(*args: Any, **options: Any) -> Any:
        engine, info = build_engine(*args, **options)
        return engine, replace(info, notes=("figures are not kept\x1b[2J",))

    monkeypatch.setattr(measure, "build_engine", noting)
    made = lengths_workload(Lengths.parse("9/5"), num_requests=2, vocab_size=VOCAB)
    figures = run_fake(made)
    assert list(figures.as_json()["notes"]) == ["figures are not kept\x1b[2J"]
    assert "note: figures are not kept\\x1b[2J" in to_text(bench_blocks(figures)).splitlines()


def test_another_number_of_tokens_than_asked_for_is_no_figure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = lengths_workload(Lengths.parse("9/5"), num_requests=2, vocab_size=VOCAB)
    taken = LLMEngine.pop_update

    def short(engine: LLMEngine) -> Any:
        update = taken(engine)
        for number, result in enumerate(update.results):
            fewer = Completion(result.completions[0].token_ids[:-1], "", FinishReason.LENGTH)
            update.results[number] = RequestResult(
                result.request_id, (fewer,), result.prompt_tokens, 0, 4, 0, 0.0, 0.0
            )
        return update

    monkeypatch.setattr(LLMEngine, "pop_update", short)
    with pytest.raises(EngineError, match="gave 4 tokens where 5 were asked for"):
        run_fake(made)


def test_a_request_that_never_ends_is_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LLMEngine, "has_work", property(lambda engine: False))
    engine, _ = build_engine(EngineSpec(ModelSpec(FAKE)), owns_process=False)
    with pytest.raises(EngineError, match="ended 0 of 1 requests"):
        compute(engine, [greedy(0, "one", [1, 2], 3)], lambda text: None)


def test_a_machine_without_duckdb_pydantic_typer_rich_and_pyarrow_can_run_it() -> None:
    code = """
import sys

class Refused:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"duckdb", "pydantic", "typer", "rich", "yaml", "pyarrow"}:
            raise ModuleNotFoundError(f"no {name} here")

sys.meta_path.insert(0, Refused())
from thothy_batch.bench.measure import run_bench
from thothy_batch.bench.files import trace_workload
from thothy_batch.bench.workload import Lengths, lengths_workload
from thothy_batch.records import EngineSpec, ModelSpec

assert "torch" not in sys.modules, "imports are free"
made = lengths_workload(Lengths.parse("9-20/4"), num_requests=5, vocab_size=256)
figures = run_bench(EngineSpec(ModelSpec("builtin:fake")), made.requests)
assert figures.output_tokens == 20
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_the_script_says_what_the_budget_left_out() -> None:
    command = [sys.executable, "tests/bench/bench_runs.py", "--dry-run", "--budget-s", "0"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout.splitlines()[-1])
    assert document["runs"] == []
    assert {row["reason"] for row in document["not_run"]} == {"the budget is spent"}
    assert len(document["not_run"]) == 8
