"""Runs with model.quantization int8: their stored settings and their own request keys."""

import json
from pathlib import Path
from typing import Any

import pytest
from report_text import render_text

from thothy_batch.engine.calibration import device_limits
from thothy_batch.engine.hardware import cpu_load
from thothy_batch.runner.commands.plan import plan_manifest
from thothy_batch.runner.commands.report import report_document

EMBEDDED = Path(__file__).parents[2] / "sample_data" / "model"
MANIFEST = """
model: {{id: "{model}", quantization: {quantization}}}
engine: {{device: cpu, num_blocks: 40}}
jobs:
  - {{name: j, kind: raw, input: rows.parquet, sampling: {{max_tokens: 4}}}}
"""


@pytest.fixture
def quantized(project: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Two rows for the embedded model, on a device that is not measured."""
    monkeypatch.setattr(device_limits, "_bandwidth", lambda budget_s: 2e9)
    monkeypatch.setattr(device_limits, "_flops", lambda dtype, budget_s: 3e9)
    monkeypatch.setattr(cpu_load, "_core_clocks", list)  # how busy the machine is, nobody knows
    project.rows("rows.parquet", id=["a", "b"], prompt=["A lamp for", "Three facts about"])
    return project


def _ask(project: Any, quantization: str) -> Any:
    project.manifest.write_text(MANIFEST.format(model=EMBEDDED, quantization=quantization))
    return project.run()


@pytest.mark.rest
def test_a_quantised_run_has_request_keys_of_its_own(quantized: Any) -> None:
    runs = [_ask(quantized, quantization) for quantization in ("none", "int8", "int8")]
    assert [run.counts["num_done"] for run in runs] == [2, 2, 0]
    assert runs[2].counts["num_reused"] == 2
    stored = quantized.query("select model from runs order by started_at")
    models = [json.loads(model) for (model,) in stored]
    assert [model["quantization"] for model in models[:2]] == ["none", "int8"]
    assert quantized.query("select count(distinct request_key) from artifacts") == [(4,)]
    assert "model (int8)" in render_text(report_document(quantized.store, runs[1].run_id))
    fractions = quantized.query("select roofline_fraction from runs order by started_at limit 2")
    assert all(fraction > 0 for (fraction,) in fractions)


def test_a_plan_names_the_quantization(quantized: Any) -> None:
    quantized.manifest.write_text(MANIFEST.format(model=EMBEDDED, quantization="int8"))
    plan = plan_manifest(quantized.options(), quantized.notes)
    assert plan["model"]["quantization"] == "int8"
