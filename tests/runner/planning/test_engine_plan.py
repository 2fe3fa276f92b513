"""A run computes what its plan predicted, and the store records both."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_nvml import FakeGpu, FakeNvml

from thothy_batch.engine.hardware import cpu_load, gpu
from thothy_batch.engine.protocol import EngineClient
from thothy_batch.engine.start import start_in_process
from thothy_batch.errors import StoreError
from thothy_batch.manifest.settings import Overrides
from thothy_batch.records import EngineSpec
from thothy_batch.runner.commands.plan import plan_manifest
from thothy_batch.runner.commands.run import run_manifest
from thothy_batch.runner.monitoring.progress import Silent
from thothy_batch.runner.session.options import RunOptions
from thothy_batch.store.store import Store

ROOT = Path(__file__).resolve().parents[3]
RAW = "name: {name}, kind: raw, input: {file}, priority: {priority}, sampling: {sampling}"
SAMPLING = "{max_tokens: 9, ignore_eos: true, temperature: 0.8}"


def shared_rows(project: Any) -> None:
    """Two jobs over eight documents, in shuffled order, with repeats."""
    docs = [f"document {d}: " + chr(97 + d) * 150 for d in range(8)]
    order = [5, 2, 7, 0, 3, 6, 1, 4, 2, 5]
    for name, ask in (("a", "first"), ("b", "second")):
        prompts = [docs[d] + ask for d in order]
        project.rows(f"{name}.parquet", id=list(range(len(prompts))), prompt=prompts)


def two_jobs(project: Any, engine: str, priorities: tuple[int, int] = (5, 5)) -> None:
    jobs = [
        RAW.format(name=name, file=f"{name}.parquet", priority=priority, sampling=SAMPLING)
        for name, priority in zip("ab", priorities, strict=True)
    ]
    project.jobs(*jobs, more=f"engine: {engine}")


@pytest.mark.few(1)
@pytest.mark.parametrize("priorities", [(5, 5), (9, 1)])
@pytest.mark.parametrize("order", ["auto", "prefix", "fifo", "length"])
def test_computed_prompt_tokens_are_those_of_the_plan(
    project: Any, order: str, priorities: tuple[int, int]
) -> None:
    shared_rows(project)
    two_jobs(project, f"{{order: {order}, block_size: 8, max_seqs: 4}}", priorities)
    plan = plan_manifest(project.options(), Silent())
    summary = project.run()
    ((planned, computed, prompt, cached),) = project.query(
        "select planned_prompt_tokens, computed_prompt_tokens, prompt_tokens, "
        "cached_prompt_tokens from runs"
    )
    assert summary.counts["num_done"] == 16
    assert summary.counts["num_reused"] == 4  # the repeats of each job
    assert computed == prompt - cached < prompt
    assert plan["sharing"]["planned_prompt_tokens"] == planned
    if order in ("auto", "prefix"):
        assert planned == computed
    else:
        assert planned is None


@pytest.mark.rest
def test_orders_and_sharing_change_no_text(project: Any) -> None:
    shared_rows(project)
    found = set()
    for engine in (
        "{order: auto, block_size: 8, max_seqs: 4}",
        "{order: prefix, block_size: 8, num_blocks: 60}",
        "{order: length, block_size: 4, admission: optimistic, num_blocks: 120}",
        "{order: fifo, prefix_sharing: false}",
    ):
        two_jobs(project, engine)
        project.run(force=True)
        rows = project.query("select job, item_id, text from artifacts order by 1, 2")
        assert len(rows) == 20
        found.add(json.dumps(rows))
    assert len(found) == 1


def test_the_plan_names_rows_that_no_pool_here_can_hold(project: Any) -> None:
    project.rows("rows.parquet", id=["small", "large"], prompt=["x" * 20, "x" * 400])
    job = "name: j, kind: raw, input: rows.parquet, sampling: {max_tokens: 8}"
    project.jobs(job, more="engine: {block_size: 16, kv_memory: 10KiB}")
    plan = plan_manifest(project.options(), Silent())
    assert (plan["num_failed"], plan["jobs"][0]["failed"]) == (1, {"prompt_too_long": 1})
    ((job, item_id, said),) = [(r["job"], r["item_id"], r["message"]) for r in plan["refused"]]
    assert (job, item_id) == ("j", "large")
    for part in ("prompt of 400 tokens + max_tokens 8", "26 blocks of 16"):
        assert part in said
    assert (plan["num_items"], plan["num_to_compute"], plan["num_duplicates"]) == (2, 1, 0)
    summary = project.run()
    assert summary.counts["num_failed"] == 1
    ((message,),) = project.query("select message from failures")
    assert message == said


def test_an_instruction_before_the_document_is_noted(project: Any) -> None:
    docs = [" ".join(f"{d}word{i}" for i in range(60)) for d in range(10)]
    for name, ask in (("good", "{doc}\n{task}"), ("bad", "{task}\n{doc}")):
        prompts = [ask.format(doc=d, task=f"task {t} of many") for d in docs for t in "pq"]
        project.rows(f"{name}.parquet", id=list(range(20)), prompt=prompts)
    found = {}
    for name in ("good", "bad"):
        job = f"name: {name}, kind: raw, input: {name}.parquet, sampling: {{max_tokens: 4}}"
        project.jobs(job)
        plan = plan_manifest(project.options(), Silent())
        found[name] = any("put" in note and repr(name) in note for note in plan["notes"])
    assert found == {"good": False, "bad": True}


def test_output_lengths_are_estimated_from_history(project: Any) -> None:
    project.rows("rows.parquet", id=list(range(20)), prompt=[f"row {i}" for i in range(20)])
    job = "name: j, kind: raw, input: rows.parquet, sampling: {max_tokens: %d}"
    project.jobs(job % 500)
    before = plan_manifest(project.options(), Silent())["jobs"][0]
    assert (before["expected_tokens"], before["expected_from"]) == (500, "max_tokens")
    project.run()
    longest = max(n for (n,) in project.query("select output_tokens from artifacts"))
    after = plan_manifest(project.options(), Silent())["jobs"][0]
    assert after["expected_from"] == "history"
    assert after["expected_tokens"] <= longest < 500


@pytest.mark.rest
def test_a_real_run_is_predicted_and_has_its_receipt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu_load, "_core_clocks", list)  # how busy the machine is, nobody knows

    def start(
        spec: EngineSpec, *, log_path: Path | None = None, on_phase: Any = None
    ) -> EngineClient:
        return start_in_process(spec)

    options = RunOptions(
        ROOT / "sample_data" / "manifest.yaml",
        Overrides(store=tmp_path / "a.duckdb", limit=20),
        start_engine=start,
    )
    summary = run_manifest(options, Silent())
    assert summary.roofline_fraction is not None
    assert summary.roofline_s is not None
    assert summary.roofline_fraction == round(summary.roofline_s / summary.engine_s, 4) > 0
    plan = plan_manifest(options, Silent())
    assert plan["num_already_done"] == summary.counts["num_done"]


def test_a_pool_that_cannot_start_is_noted_and_the_plan_is_shown(project: Any) -> None:
    project.rows("rows.parquet", id=[1, 2], prompt=["one", "two"])
    job = "name: j, kind: raw, input: rows.parquet, sampling: {max_tokens: 8}"
    project.jobs(job, more="engine: {block_size: 32, kv_memory: 1KiB}")
    plan = plan_manifest(project.options(), Silent())
    assert plan["num_to_compute"] == 2
    assert any("a run now would fail" in note for note in plan["notes"])


def test_a_deadline_that_is_too_near_is_noted(project: Any) -> None:
    project.rows("rows.parquet", id=[1, 2], prompt=["one", "two"])
    project.jobs("name: j, kind: raw, input: rows.parquet, sampling: {max_tokens: 8}")
    plan = plan_manifest(project.options(time_budget_s=2.0), Silent())
    assert plan["estimate"]["time_left_s"] == 2.0
    assert plan_manifest(project.options(), Silent())["estimate"]["time_left_s"] is None


def test_the_engine_is_closed_when_the_run_fails_before_it_computes(
    project: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = []

    def start(
        spec: EngineSpec, *, log_path: Path | None = None, on_phase: Any = None
    ) -> EngineClient:
        engine = start_in_process(spec)
        monkeypatch.setattr(engine, "close", lambda: closed.append(engine))
        return engine

    def fails(*_: object) -> None:
        raise StoreError("the disk is full")

    monkeypatch.setattr(Store, "update_run", fails)
    project.rows("rows.parquet", id=[1], prompt=["one"])
    project.jobs("name: j, kind: raw, input: rows.parquet, sampling: {max_tokens: 8}")
    summary = project.run(start_engine=start)
    assert (summary.status, summary.exit_code, len(closed)) == ("failed", 5, 1)
    assert summary.counts["num_not_run"] == 1


@pytest.mark.few(1)
@pytest.mark.parametrize("pool", ["num_blocks: 2000", "num_blocks: 40"])
def test_a_pool_smaller_than_expected_is_planned_again(project: Any, pool: str) -> None:
    """The engine has less memory than expected: the recorded plan is for its actual pool."""
    shared_rows(project)
    two_jobs(project, f"{{order: auto, block_size: 8, max_seqs: 4, {pool}}}")

    def start(
        spec: EngineSpec, *, log_path: Path | None = None, on_phase: Any = None
    ) -> EngineClient:
        return start_in_process(replace(spec, num_blocks=40))

    assert project.run(start_engine=start).counts["num_done"] == 16
    ((planned, computed),) = project.query(
        "select planned_prompt_tokens, computed_prompt_tokens from runs"
    )
    assert planned == computed


def test_a_gpu_that_others_fill_is_told_before_weights_are_loaded(
    project: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fake of the driver says so."""
    processes = [(4242, "/opt/vllm/bin/python", 81920)]
    FakeNvml(monkeypatch, [FakeGpu("GPU-12-34", "NVIDIA H100", 81920, 1, processes=processes)])
    project.rows("rows.parquet", id=[1], prompt=["one"])
    project.jobs("name: j, kind: raw, input: rows.parquet", model="", more="engine: {device: cuda}")
    project.manifest.write_text(project.manifest.read_text().replace('model: {id: ""}', ""))

    def start(*args: Any, **options: Any) -> Any:
        raise AssertionError("it loads")

    try:
        summary = project.run(start_engine=start)
    finally:
        gpu._search.cache_clear()
    assert summary.exit_code == 5
    assert "process 4242 (/opt/vllm/bin/python) with 80.0 GiB" in str(summary.error)
    assert summary.counts["num_not_run"] == 1
