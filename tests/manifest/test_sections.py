"""The keys of a manifest: each impossible value is refused at its line."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from thothy_batch.errors import ManifestError, Problem
from thothy_batch.manifest.sections import ManifestFile
from thothy_batch.manifest.settings import (
    Manifest,
    Overrides,
    json_schema,
    load_manifest,
    to_engine_spec,
)

JOB = "jobs: [{name: a, kind: summary, input: a.parquet}]\n"


def write(folder: Path, text: str, name: str = "m.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def load(folder: Path, text: str, **overrides: Any) -> Manifest:
    return load_manifest(write(folder, text), Overrides(**overrides))


def problems_of(folder: Path, text: str, **overrides: Any) -> list[Problem]:
    with pytest.raises(ManifestError) as caught:
        load(folder, text, **overrides)
    return caught.value.problems


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("model: {dtyp: auto}", "unknown key 'model.dtyp'"),
        ("model: {dtype: float16}", "model.dtype must be 'auto', 'float32' or 'bfloat16'"),
        ("model: {quantization: int4}", "model.quantization must be 'none' or 'int8'"),
        ("model: {quantization: fp8}", "model.quantization 'fp8' does not exist yet"),
        ("engine: {impl: tritom}", "engine.impl must be"),
        ("engine: {device: gpu}", "engine.device must be"),
        ("engine: {block_size: 0}", "engine.block_size must be at least 1"),
        ("engine: {kv_memory: 8}", "engine.kv_memory must be auto, a size"),
        ("engine: {num_blocks: 0}", "engine.num_blocks must be at least 1"),
        ("engine: {max_seqs: many}", "engine.max_seqs must be auto or a whole number"),
        ("engine: {max_seqs: 0}", "engine.max_seqs must be at least 1"),
        ("engine: {max_step_tokens: 1.5}", "engine.max_step_tokens must be a whole number"),
        ("engine: {prefix_sharing: yes}", "engine.prefix_sharing must be true or false"),
        ("engine: {admission: eager}", "engine.admission must be"),
        ("engine: {order: random}", "engine.order must be"),
        ("engine: {block_size: 9999999999}", "engine.block_size must be at most 2147483647"),
        ("engine: {num_blocks: 99999999}", "engine.num_blocks must be at most 16777216"),
        ("engine: {max_seqs: 9999999999}", "engine.max_seqs must be at most 2147483647"),
        ("run: {seed: -1}", "run.seed must be at least 0"),
        ("run: {deadline: tomorrow}", "run.deadline must be a clock time"),
        ("run: {deadline: 600}", "run.deadline must be a clock time"),
        ("run: {time_budget: 5}", "run.time_budget must be a duration"),
        ("run: {grace: null}", "run.grace must be a duration"),
        ("run: {max_attempts: 0}", "run.max_attempts must be at least 1"),
        ("output: {token_ids: yes}", "output.token_ids must be true or false"),
        ("store: ''", "store must not be empty"),
        ("sotre: x", "unknown key 'sotre'"),
    ],
)
def test_impossible_settings_are_refused_by_line(tmp_path: Path, line: str, message: str) -> None:
    [problem] = problems_of(tmp_path, JOB + line)
    assert message in problem.message
    assert problem.line == 2
    assert problem.path == str(tmp_path / "m.yaml")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("sampling: {temperature: -0.1}", "sampling.temperature must be at least 0, found -0.1"),
        ("sampling: {temperature: .nan}", "sampling.temperature must be a finite number"),
        ("sampling: {top_p: 0}", "sampling.top_p must be more than 0, found 0"),
        ("sampling: {top_p: 1.1}", "sampling.top_p must be at most 1, found 1.1"),
        ("sampling: {top_k: -1}", "sampling.top_k must be at least 0, found -1"),
        ("sampling: {max_tokens: 0}", "sampling.max_tokens must be at least 1, found 0"),
        ("sampling: {repetition_penalty: 0}", "sampling.repetition_penalty must be more than 0"),
        ("sampling: {repetition_stop: maybe}", "sampling.repetition_stop must be"),
        ("sampling: {stop: ''}", "sampling.stop"),
        ("sampling: {stop: [a, 5]}", "sampling.stop[1] must be text"),
        ("sampling: {seed: -1}", "sampling.seed must be at least 0"),
        ("sampling: {ignore_eos: 1}", "sampling.ignore_eos must be true or false"),
        ("sampling: {temprature: 1}", "unknown key 'jobs[0].sampling.temprature'"),
        ("priority: 10", "priority must be at most 9"),
        ("priority: -1", "priority must be at least 0"),
        ("on_too_long: split", "splitting comes later"),
        ("on_too_long: truncate", "on_too_long must be 'fail', 'truncate_head' or"),
        ("max_failed_pct: 101", "max_failed_pct must be at most 100"),
        ("columns: {id: 5}", "columns.id must be text"),
        ("columns: [id]", "columns must be a mapping"),
        ("params: 5", "params must be a mapping"),
        ("knid: raw", "unknown key 'jobs[0].knid'"),
    ],
)
def test_impossible_jobs_are_refused_by_line(tmp_path: Path, line: str, message: str) -> None:
    text = f"jobs:\n- name: a\n  kind: raw\n  input: a.parquet\n  {line}\n"
    problems = problems_of(tmp_path, text)
    assert any(message in p.message for p in problems), problems
    assert {p.line for p in problems} == {5}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("17", "input must be a glob, a list of globs or {sql: ...}"),
        ("[]", "input must not be empty"),
        ("''", "input"),
        ("[a, 5]", "input[1] must be text"),
        ("{sqll: x}", "unknown key 'jobs[0].input.sqll'"),
        ("{sql: ''}", "input.sql must not be empty"),
    ],
)
def test_impossible_inputs_are_refused(tmp_path: Path, value: str, message: str) -> None:
    text = f"jobs:\n- name: a\n  kind: raw\n  input: {value}\n"
    problems = problems_of(tmp_path, text)
    assert any(message in p.message for p in problems), problems
    assert {p.line for p in problems} == {4}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("store: a", "jobs is missing"),
        ("jobs: []", "jobs must not be empty"),
        ("jobs: 5", "jobs must be a list"),
        ("jobs: {parquett: a}", "unknown key 'jobs.parquett'"),
        ("", "empty"),
        ("- a", "not a mapping"),
        ("jobs: [{name: '', kind: raw, input: a}]", "jobs[0].name is empty"),
        ('jobs: [{name: "a\\nb", kind: raw, input: a}]', "jobs[0].name holds control characters"),
    ],
)
def test_a_manifest_without_proper_jobs_is_refused(tmp_path: Path, text: str, message: str) -> None:
    assert any(message in p.message for p in problems_of(tmp_path, text))


def test_the_nearest_valid_name_is_offered(tmp_path: Path) -> None:
    text = "jobs: [{name: a, kind: raw, input: a, sampling: {temprature: 0}}]"
    [problem] = problems_of(tmp_path, text)
    assert problem.hint == "did you mean 'temperature'?"


def test_two_jobs_of_one_name_are_refused_beside_other_faults(tmp_path: Path) -> None:
    text = (
        "jobs:\n- {name: a, kind: raw, input: a}\n- {name: a, kind: raw, input: a, priority: x}\n"
    )
    same, priority = sorted(problems_of(tmp_path, text), key=lambda p: p.message, reverse=True)
    assert same.message == "two jobs are named 'a'"
    assert (same.line, "line 2" in same.hint) == (3, True)
    assert "priority" in priority.message


def described(schema: dict[str, Any], where: str = "") -> list[str]:
    """The places of all properties without a description."""
    missing = []
    for name, field in schema.get("properties", {}).items():
        if not field.get("description"):
            missing.append(f"{where}.{name}")
    for name, inner in schema.get("$defs", {}).items():
        missing += described(inner, name)
    return missing


def test_every_field_has_a_description() -> None:
    schema = json_schema()
    assert described(schema) == []
    assert set(schema["properties"]) == set(ManifestFile.model_fields)
    assert schema["additionalProperties"] is False
    json.dumps(schema)


def test_the_schema_offers_what_can_be_written() -> None:
    schema = json_schema()["$defs"]
    job = schema["JobSettings"]["properties"]
    assert {"type": "string"} in job["input"]["oneOf"][0]["anyOf"]
    impls = schema["EngineSettings"]["properties"]["impl"]["anyOf"][0]["enum"]
    assert impls == ["auto", "reference", "cpu", "triton", "flex"]
    assert {"const": "auto"} in schema["EngineSettings"]["properties"]["max_seqs"]["anyOf"]


KEYS = st.sampled_from(
    [
        "store",
        "model",
        "engine",
        "run",
        "jobs",
        "name",
        "kind",
        "input",
        "sql",
        "columns",
        "parquet",
    ]
    + [
        "sampling",
        "stop",
        "seed",
        "kv_memory",
        "deadline",
        "priority",
        "max_seqs",
        "repetition_stop",
    ]
)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 10**20)
    | st.floats()
    | st.sampled_from(["auto", "raw", "a.parquet", "06:00", "5h", "\0", "a" * 400, "[", "~nobody"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=15,
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.dictionaries(KEYS, VALUES, max_size=5))
def test_any_manifest_is_loaded_or_refused(tmp_path: Path, value: dict[str, object]) -> None:
    value.setdefault("jobs", [{"name": "a", "kind": "raw", "input": "a.parquet"}])
    path = write(tmp_path, json.dumps(value))
    with suppress(ManifestError):
        found = load_manifest(path)
        assert found.jobs
        found.as_json()
        to_engine_spec(found)
