"""Manifests: whatever stands in one, it loads or ends with sentences that name the place."""

import contextlib
import io
import json
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bounds import LONG, check_sentences, examples, within
from hypothesis import given
from hypothesis import strategies as st
from mutations import emit, every_change, laughs, mutated_bytes, mutated_trees, tree_of

from thothy_batch.cli.main import main
from thothy_batch.errors import ManifestError
from thothy_batch.manifest.sections import (
    EngineSettings,
    JobSettings,
    ManifestFile,
    ModelSettings,
    RunSettings,
    SamplingSettings,
)
from thothy_batch.manifest.settings import SqlInput, load_manifest, to_engine_spec
from thothy_batch.runner.entries.job import open_jobs

SECONDS = 20.0
_JOB = {"name": "s", "kind": "summary", "input": "rows.parquet"}
_FULL = {
    "store": "artifacts.duckdb",
    "model": {"id": "'builtin:fake'", "dtype": "auto", "quantization": "none", "seed": 0},
    "engine": {"device": "cpu", "block_size": 32, "kv_memory": "8GiB", "max_seqs": 4},
    "run": {"seed": 0, "deadline": "06:00", "time_budget": "5h", "grace": "30s"},
    "jobs": [
        {**_JOB, "columns": {"id": "id", "text": "text"}, "params": {"max_words": 60}},
        {
            **{"name": "r", "kind": "report", "input": ["rows.parquet", "'*.parquet'"]},
            "params": {"group_by": "week", "language": "en"},
            "sampling": {"temperature": 0.5, "top_p": 0.9, "max_tokens": 16, "stop": ["x"]},
            **{"priority": 9, "on_too_long": "fail", "max_failed_pct": 20},
        },
        {**_JOB, "name": "own", "kind": "own.yaml"},
    ],
    "output": {"token_ids": "true"},
}
_SMALL = {"jobs": [{**_JOB, "name": "h", "kind": "hook", "params": {"variants": 2}}]}
_ROWS = {"model": {"id": "'builtin:fake'"}, "jobs": {"parquet": "rows.parquet"}}
_ENGINE = {
    "engine": {"num_blocks": 64, "max_step_tokens": 64, "kv_memory": 0.5, "max_seqs": "auto"},
    "run": {"stall_after": "10m", "max_attempts": 2, "time_budget": "1h", "grace": "1s"},
    "jobs": [{**_JOB, "deadline": "'2027-01-01T06:00'", "sampling": {"top_k": 3, "seed": 7}}],
}
TREES = tuple(tree_of(base) for base in (_FULL, _SMALL, _ROWS, _ENGINE))
SQL = b"jobs: [{name: q, kind: summary, input: {sql: \"select 1 as id, 'a' as text\"}}]\n"
BASES = (*(emit(tree).encode() for tree in TREES), SQL)
KEYS = tuple(
    name
    for section in (
        *(ManifestFile, ModelSettings, EngineSettings, RunSettings, JobSettings),
        SamplingSettings,
    )
    for name in section.model_fields
)
OWN = "kind: own\nfields: [text]\nstages: [{name: draft, instruction: 'Say {{ text }}.'}]\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the manifests name: rows, and a user's kind."""
    folder = tmp_path_factory.mktemp("manifests")
    columns = {"job": ["j"] * 3, "kind": ["summary"] * 3, "id": ["a", "b", None]}
    rows = pa.table({**columns, "text": ["fine", None, "also"], "week": [1, 1, 2]})
    pq.write_table(rows, folder / "rows.parquet")
    (folder / "own.yaml").write_text(OWN)
    return folder


def check(folder: Path, data: bytes) -> bool:
    """Loads and opens a manifest of these bytes; whether it could be used."""
    path = folder / "night.yaml"
    path.write_bytes(data)
    with within(SECONDS):
        try:
            manifest = load_manifest(path)
            json.dumps(manifest.as_json())
            assert len(manifest.manifest_hash) == 32
            to_engine_spec(manifest)
            if not any(isinstance(job.input, SqlInput) for job in manifest.jobs):
                open_jobs(manifest)
        except ManifestError as error:
            check_sentences(error)
            return False
    return True


@pytest.mark.rest
def test_every_value_at_every_key_loads_or_is_refused_by_line(folder: Path) -> None:
    """In CI every 37th of them."""
    for text in islice(every_change(TREES), 0, None, 1 if LONG else 37):
        check(folder, text.encode("utf-8", "surrogatepass"))


@given(text=mutated_trees(TREES, KEYS))
@examples(100)
def test_changed_settings_load_or_are_refused_by_line(folder: Path, text: str) -> None:
    check(folder, text.encode("utf-8", "surrogatepass"))


@given(data=mutated_bytes(BASES))
@examples(200)
def test_changed_bytes_load_or_are_refused_by_line(folder: Path, data: bytes) -> None:
    check(folder, data)


@given(data=st.binary(max_size=200))
@examples(60)
def test_noise_is_refused(folder: Path, data: bytes) -> None:
    assert not check(folder, data)


@given(text=mutated_trees(TREES, KEYS))
@examples(30)
def test_plan_ends_with_a_known_code_and_a_sentence(folder: Path, text: str) -> None:
    (folder / "night.yaml").write_bytes(text.encode("utf-8", "surrogatepass"))
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), within(30):
        code = _code(lambda: main(["plan", str(folder / "night.yaml"), "--model", "builtin:fake"]))
    said = out.getvalue() + err.getvalue()
    assert code in (0, 1, 2, 5), said
    assert "Traceback" not in said
    assert "unexpected:" not in said
    assert (code == 2) == ("error:" in err.getvalue())


def _code(command: Callable[[], Any]) -> object:
    with pytest.raises(SystemExit) as end:
        command()
    return end.value.code


_HEAD = "jobs: [{name: s, kind: summary, input: rows.parquet}]\n"
MUCH = {
    "a line of 1 MB": _HEAD + "store: " + "x" * 10**6,
    "a key of 1 MB": _HEAD + "? " + "x" * 10**6 + "\n: 1",
    "digits of 1 MB": _HEAD + "run: {seed: " + "9" * 10**6 + "}",
    "1 MB of brackets": "[" * 10**6,
    "1 MB of dashes": "- " * 500_000,
    "lists within lists": _HEAD + "store: " + "[" * 300 + "]" * 300,
    "a billion laughs": laughs(10) + _HEAD,
    "laughs in a long chain": laughs(2000, width=1) + _HEAD,
    "20,000 unknown keys": "".join(f"k{i}: 1\n" for i in range(20_000)) + _HEAD,
}


@pytest.mark.few(1)
@pytest.mark.parametrize("name", MUCH)
def test_much_of_anything_ends_in_time(folder: Path, name: str) -> None:
    check(folder, MUCH[name].encode())
