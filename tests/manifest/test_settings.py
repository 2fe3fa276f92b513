"""Manifests: every key, every default, every refusal with its line."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from counted_work import calls_of

from thothy_batch.errors import ManifestError, Problem
from thothy_batch.manifest.settings import (
    FileInput,
    Manifest,
    Overrides,
    SqlInput,
    load_manifest,
    to_engine_spec,
)
from thothy_batch.records import EngineSpec, ModelSpec

JOB = "jobs: [{name: a, kind: summary, input: a.parquet}]\n"


def write(folder: Path, text: str, name: str = "m.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def load(folder: Path, text: str, **overrides: Any) -> Manifest:
    return load_manifest(write(folder, text), Overrides(**overrides))


def line_of(text: str, part: str) -> int:
    return next(i for i, line in enumerate(text.splitlines(), 1) if part in line)


def problems_of(folder: Path, text: str, **overrides: Any) -> list[Problem]:
    with pytest.raises(ManifestError) as caught:
        load(folder, text, **overrides)
    return caught.value.problems


def test_what_is_left_out_has_the_default_of_the_contract(tmp_path: Path) -> None:
    found = load(tmp_path, JOB)
    assert found.store == tmp_path / "artifacts.duckdb"
    assert found.base == tmp_path
    assert to_engine_spec(found) == EngineSpec(model=ModelSpec())
    assert found.engine.order == "auto"
    assert (found.run.seed, found.run.deadline, found.run.time_budget) == (0, None, None)
    assert (found.run.grace, found.run.max_attempts) == (30.0, 2)
    [job] = found.jobs
    assert (job.priority, job.on_too_long, job.max_failed_pct) == (5, "fail", 20)
    assert job.sampling.given() == {}
    assert (job.params, job.columns) == ({}, {})
    assert found.output.token_ids is False
    assert found.limit is None


FULL = """
store: out/night.duckdb
model:
  id: someone/model
  revision: v1
  dtype: bfloat16
  quantization: none
  random_weights: true
engine:
  device: cuda
  impl: reference
  block_size: 16
  kv_memory: 8GiB
  num_blocks: 7
  max_seqs: 3
  max_step_tokens: 512
  prefix_sharing: false
  admission: optimistic
  order: fifo
run: {seed: 9, deadline: 06:00, time_budget: 5h, grace: 10s, max_attempts: 1}
jobs:
  - name: one
    kind: summary
    input: [data/a-*.parquet, b.parquet]
    columns: {id: sku, text: body}
    params: {max_words: 60, language: no}
    sampling: {temperature: 0.5, top_p: 0.9, top_k: 5, max_tokens: 160, stop: END, ignore_eos: true,
               seed: 4, repetition_penalty: 1.1, repetition_stop: auto}
    priority: 9
    on_too_long: truncate_tail
    max_failed_pct: 33.5
  - {name: two, kind: my/kind.yaml, input: {sql: select 1 as id}, sampling: {stop: [a, b]}}
output: {token_ids: true}
"""


def test_every_key_arrives(tmp_path: Path) -> None:
    found = load(tmp_path, FULL)
    assert found.store == tmp_path / "out/night.duckdb"
    assert to_engine_spec(found) == EngineSpec(
        model=ModelSpec("someone/model", "v1", "bfloat16", "none", True),
        device="cuda",
        impl="reference",
        block_size=16,
        kv_memory=8 * 1024**3,
        num_blocks=7,
        max_seqs=3,
        max_step_tokens=512,
        prefix_sharing=False,
        admission="optimistic",
    )
    run = found.run
    assert (run.seed, run.deadline, run.time_budget) == (9, "06:00", 18000.0)
    assert (run.grace, run.max_attempts) == (10.0, 1)
    one, two = found.jobs
    assert one.input == FileInput.model_validate(["data/a-*.parquet", "b.parquet"])
    assert one.columns == {"id": "sku", "text": "body"}
    assert one.params == {"max_words": 60, "language": "no"}
    assert one.sampling.given() == {
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 5,
        "max_tokens": 160,
        "stop": ["END"],
        "ignore_eos": True,
        "seed": 4,
        "repetition_penalty": 1.1,
        "repetition_stop": "auto",
    }
    assert (one.priority, one.on_too_long, one.max_failed_pct) == (9, "truncate_tail", 33.5)
    assert two.kind == "my/kind.yaml"
    assert two.input == SqlInput(sql="select 1 as id")
    assert two.sampling.given() == {"stop": ["a", "b"]}
    assert found.output.token_ids is True


@pytest.mark.parametrize("share", ["0.9", "1.0"])
def test_kv_memory_can_be_a_share(tmp_path: Path, share: str) -> None:
    found = to_engine_spec(load(tmp_path, JOB + f"engine: {{kv_memory: {share}}}"))
    assert found.kv_memory == float(share)


def test_all_problems_come_at_once(tmp_path: Path) -> None:
    text = FULL.replace("block_size: 16", "block_size: 0").replace("priority: 9", "priority: 99")
    text = text.replace("{token_ids: true}", "{tokens: true}").replace("seed: 9", "seed: x")
    wrong = ("block_size: 0", "seed: x", "priority: 99", "tokens: true")
    assert [p.line for p in problems_of(tmp_path, text)] == [line_of(text, w) for w in wrong]


def test_a_job_reports_problems_at_its_keys(tmp_path: Path) -> None:
    one, two = load(tmp_path, FULL).jobs
    path = str(tmp_path / "m.yaml")
    assert one.problem("kind", "is unknown", "use raw") == Problem(
        "job 'one': is unknown", path, line_of(FULL, "kind: summary"), "use raw"
    )
    assert one.problem("sampling.seed", "x").line == line_of(FULL, "seed: 4")
    assert one.problem("sampling.nothing", "x").line == line_of(FULL, "sampling: {temp")
    assert two.problem("priority", "x").line == line_of(FULL, "name: two")


def test_null_and_empty_values_of_the_contract_are_fine(tmp_path: Path) -> None:
    text = "engine: {num_blocks: null}\nrun: {deadline: null, time_budget: null}\n" + JOB.replace(
        "kind: summary", "kind: summary, sampling: {stop: [], seed: null}, params: {}, columns: {}"
    )
    found = load(tmp_path, text)
    assert found.jobs[0].sampling.given() == {"stop": []}
    assert (found.run.deadline, found.engine.num_blocks) == (None, None)


def test_overrides_win_and_start_at_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / "work"
    (work / "model").mkdir(parents=True)
    monkeypatch.chdir(work)
    found = load(
        tmp_path, FULL, store=Path("s.duckdb"), model="model", device="cpu", jobs=("two",), limit=5
    )
    assert found.store == work / "s.duckdb"
    assert found.model.id == str(work / "model")
    assert found.model.dtype == "bfloat16"
    assert found.engine.device == "cpu"
    assert [job.name for job in found.jobs] == ["two"]
    assert found.limit == 5


def test_a_model_folder_starts_at_the_manifest(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    assert load(tmp_path, JOB + "model: {id: here}").model.id == str(tmp_path / "here")
    assert load(tmp_path, JOB + "model: {id: ./not}").model.id == str(tmp_path / "not")
    assert load(tmp_path, JOB + "model: {id: hub/name}").model.id == "hub/name"
    assert load(tmp_path, JOB, model="builtin:fake?step_ms=5").model.id == "builtin:fake?step_ms=5"


@pytest.mark.parametrize(
    ("overrides", "message", "hint"),
    [
        ({"jobs": ("onee",)}, "--job onee", "'one'"),
        ({"device": "gpu"}, "--device gpu: must be auto, cpu or cuda", ""),
        ({"limit": 0}, "--limit 0", ""),
    ],
)
def test_impossible_overrides_are_refused(
    tmp_path: Path, overrides: dict[str, Any], message: str, hint: str
) -> None:
    [problem] = problems_of(tmp_path, FULL, **overrides)
    assert message in problem.message
    assert hint in problem.hint


def test_the_stored_settings_are_json_and_hashed(tmp_path: Path) -> None:
    found = load(tmp_path, FULL)
    stored = json.loads(json.dumps(found.as_json()))
    assert stored["jobs"][0]["sampling"]["temperature"] == 0.5
    assert stored["model"]["id"] == "someone/model"
    assert found.manifest_hash == load(tmp_path, "# comment\n" + FULL).manifest_hash
    assert found.manifest_hash == load(tmp_path, FULL, store=Path("other")).manifest_hash
    assert found.manifest_hash != load(tmp_path, FULL.replace("seed: 4", "seed: 5")).manifest_hash
    assert len(found.manifest_hash) == 32


def test_a_missing_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="no such file"):
        load_manifest(tmp_path / "none.yaml")
    with pytest.raises(ManifestError, match="no such file"):
        load_manifest(tmp_path / "none.parquet")


def test_a_parquet_file_is_a_manifest(tmp_path: Path) -> None:
    rows = {"job": ["a", "b"], "kind": ["summary", "hook"], "id": ["1", "1"], "text": ["x", "y"]}
    for name in ("night.parquet", "night"):
        pq.write_table(pa.table(rows), tmp_path / name)
        found = load_manifest(tmp_path / name, Overrides(model="hub/name"))
        assert [(job.name, job.kind) for job in found.jobs] == [("a", "summary"), ("b", "hook")]
        assert found.store == tmp_path / "artifacts.duckdb"
        assert found.model.id == "hub/name"


@pytest.mark.parametrize(
    "name",
    ["~nobody-of-that-name/x", "x" * 5000, "x/" * 3000],
    ids=["no such user", "long name", "long path"],
)
def test_names_that_no_file_can_have_are_names_all_the_same(tmp_path: Path, name: str) -> None:
    """A store or a model that has to exist is reported as missing."""
    job = "jobs: [{name: a, kind: summary, input: a.parquet}]\n"
    manifest = load(tmp_path, f"store: {name}\nmodel: {{id: {name}}}\n{job}")
    assert str(manifest.store) == str(tmp_path / name)
    assert name.rstrip("/") in manifest.model.id


def test_many_jobs_load_in_work_that_grows_with_their_number(tmp_path: Path) -> None:
    """Each looked through the lines of all of them: 10,000 jobs took more than a minute."""
    job = "- {{name: j{}, kind: summary, input: a.parquet}}\n"
    num_calls = []
    for num in (200, 800):
        text = "jobs:\n" + "".join(job.format(i) for i in range(num))
        found: list[Any] = []
        num_calls.append(
            calls_of(lambda text=text, found=found: found.append(load(tmp_path, text)))
        )
        assert found[0].jobs[num - 1].problem("kind", "").line == num + 1
    assert num_calls[1] <= 4 * num_calls[0]
