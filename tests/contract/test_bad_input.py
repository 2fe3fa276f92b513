"""Each kind of bad input has its own clear error; its neighbours are untouched."""

import json
import resource
import shutil
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

ONE_JOB = """
jobs:
  - {name: s, kind: summary, input: rows.parquet, sampling: {max_tokens: 8}}
"""

UNFILLED = """
kind: unfilled
version: 1
description: A template with a field that no column fills.
entry: item
fields: [text]
params: {}
sampling: {max_tokens: 8}
document: |
  {{ text }} {{ price }}
stages:
  - name: draft
    instruction: |
      Say it.
output: {format: text}
checks: {}
"""

BREAKS = UNFILLED.replace("{{ price }}", "{{ text | length // (text | length - 7) }}").replace(
    "kind: unfilled", "kind: breaks"
)


@pytest.mark.rest
def test_inputs_that_cannot_be_read_are_all_named_before_anything_starts(folder: Any) -> None:
    folder.texts("rows.parquet", 2)
    (folder.path / "broken.parquet").write_bytes(b"PAR1 this is not Parquet PAR1")
    (folder.path / "empty.parquet").write_bytes(b"")
    folder.parquet("renamed.parquet", {"id": ["a"], "txt": ["A lamp."]})
    folder.parquet("numbers.parquet", {"id": ["a"], "text": [1.5]})
    folder.parquet("lists.parquet", {"id": ["a"], "prompt_token_ids": ["text"]})
    (folder.path / "unfilled.yaml").write_text(UNFILLED)
    folder.manifest("""
        jobs:
          - {name: good, kind: summary, input: rows.parquet}
          - {name: missing, kind: summary, input: nowhere-*.parquet}
          - {name: broken, kind: summary, input: broken.parquet}
          - {name: empty, kind: summary, input: empty.parquet}
          - {name: renamed, kind: summary, input: renamed.parquet}
          - {name: mapped, kind: summary, input: rows.parquet, columns: {text: boddy}}
          - {name: numbers, kind: summary, input: numbers.parquet}
          - {name: lists, kind: raw, input: lists.parquet}
          - {name: sql, kind: summary, input: {sql: "select sku as id from 'rows.parquet'"}}
          - {name: no-text, kind: summary, input: {sql: "select id from 'rows.parquet'"}}
          - {name: unfilled, kind: unfilled.yaml, input: rows.parquet}
          - {name: no-kind, kind: nowhere.yaml, input: rows.parquet}
    """)
    outcome = folder.run()
    assert outcome.code == 2
    assert not outcome.stdout
    assert not folder.store.exists()
    for job, *parts in [
        ("missing", "nowhere-*.parquet"),
        ("broken", "broken.parquet"),
        ("empty", "empty.parquet"),
        ("renamed", "text", "txt"),
        ("mapped", "boddy"),
        ("numbers", "text", "double"),
        ("lists", "prompt_token_ids"),
        ("sql", "sku"),
        ("no-text", "text"),
        ("no-kind", "nowhere.yaml"),
    ]:
        outcome.error_line(f"night.yaml:{folder.line_of(f'name: {job},')}:", f"'{job}'", *parts)
    outcome.error_line("unfilled.yaml:10:", "price")
    assert "'good'" not in outcome.stderr


@pytest.mark.rest
def test_row_whose_template_fails_is_a_template_error_beside_good_ones(folder: Any) -> None:
    folder.parquet("rows.parquet", {"id": ["a", "b"], "text": ["seven..", "eight..."]})
    (folder.path / "breaks.yaml").write_text(BREAKS)
    folder.manifest(
        "jobs:\n  - {name: b, kind: breaks.yaml, input: rows.parquet,"
        " sampling: {ignore_eos: true}}\n"
    )
    assert folder.run().code == 1
    assert folder.sql("select item_id, code from failures") == [("a", "template_error")]
    assert folder.sql("select item_id from artifacts") == [("b",)]


@pytest.mark.rest
def test_undecodable_text_in_sql_ends_the_command(folder: Any) -> None:
    folder.parquet("rows.parquet", {"id": ["a", "b"], "text": pa.array([b"good", b"\xff\xfe"])})
    folder.manifest(
        "jobs:\n  - {name: q, kind: summary,\n"
        "     input: {sql: \"select id, decode(text) as text from 'rows.parquet'\"}}\n"
    )
    outcome = folder.run()
    assert outcome.code == 2
    assert "q" in outcome.stderr


@pytest.mark.rest
@pytest.mark.parametrize(
    "on_too_long",
    [
        "fail",
        pytest.param("truncate_head", marks=pytest.mark.rest),
        pytest.param("truncate_tail", marks=pytest.mark.rest),
    ],
)
def test_pool_that_is_too_small_for_a_row_fails_that_row_or_cuts_it(
    folder: Any, on_too_long: str
) -> None:
    folder.parquet("rows.parquet", {"id": ["long", "short"], "prompt": ["ab" * 50, "c" * 20]})
    folder.manifest(f"""
        engine: {{num_blocks: 4, block_size: 16}}
        jobs:
          - name: r
            kind: raw
            input: rows.parquet
            on_too_long: {on_too_long}
            sampling: {{max_tokens: 30, ignore_eos: true}}
    """)
    code = folder.run().code
    tokens = dict(folder.sql("select item_id, prompt_tokens + output_tokens from artifacts"))
    assert tokens.pop("short") == 50
    if on_too_long != "fail":
        assert code == 0
        assert tokens["long"] <= 64
        return
    assert code == 1
    assert not tokens
    ((failed, message),) = folder.sql("select code, message from failures")
    assert failed == "prompt_too_long"
    for number in ("100", "30", "64"):
        assert number in message


@pytest.mark.rest
def test_store_of_a_newer_version_is_refused_and_left_alone(folder: Any) -> None:
    folder.texts("rows.parquet", 1)
    folder.manifest(ONE_JOB)
    assert folder.run().code == 0
    with duckdb.connect(str(folder.store)) as connection:
        connection.execute("update schema_version set version = 999")
    before = folder.store.read_bytes()
    for command in (
        ["run", folder.path / "night.yaml"],
        ["report", folder.store],
        ["status", folder.store],
    ):
        outcome = folder.call(*command)
        assert outcome.code == 5, command
        assert "999" in outcome.stderr
        assert "artifacts.duckdb" in outcome.stderr
    assert folder.store.read_bytes() == before


@pytest.mark.rest
def test_stores_that_cannot_be_written_are_store_errors(folder: Any) -> None:
    folder.texts("rows.parquet", 1)
    folder.manifest(ONE_JOB)
    (folder.path / "file").write_text("not a folder")
    (folder.path / "text.duckdb").write_text("not a database, " * 500)
    (folder.path / "folder.duckdb").mkdir()
    for name in ("file/a.duckdb", "text.duckdb", "folder.duckdb"):
        outcome = folder.run("--store", folder.path / name)
        assert outcome.code == 5, name
        assert name.split("/")[0] in outcome.stderr
        assert len(outcome.stderr.splitlines()) < 25
    assert (folder.path / "text.duckdb").read_text() == "not a database, " * 500


@pytest.mark.rest
def test_full_disk_is_a_store_error_and_the_next_run_goes_on(folder: Any) -> None:
    folder.texts("rows.parquet", 3)
    folder.manifest(ONE_JOB)

    def no_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    outcome = folder.run(preexec=no_room)
    assert outcome.code == 5
    assert outcome.stderr
    assert folder.run().code == 0
    assert folder.one("select count(*) from artifacts") == 3


@pytest.mark.rest
def test_missing_files_and_stores_are_said(folder: Any) -> None:
    missing = folder.call("run", folder.path / "nowhere.yaml")
    assert missing.code == 2
    assert "nowhere.yaml" in missing.stderr
    for command in (["status"], ["report"], ["export", "artifacts.duckdb", "-o", "a.csv"]):
        outcome = folder.call(*command)
        assert outcome.code in (2, 5), command
        assert "artifacts.duckdb" in outcome.stderr
        assert not outcome.stdout
    assert not list(folder.cwd.iterdir())


@pytest.mark.rest
@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "tokenizer.json"])
def test_incomplete_model_directory_is_named_with_the_missing_file(
    folder: Any, shared: Path, missing: str
) -> None:
    model = folder.path / "model"
    shutil.copytree(shared / "data/weights/stories260K", model)
    (model / missing).unlink()
    folder.texts("rows.parquet", 1)
    folder.manifest(ONE_JOB, model=str(model))
    outcome = folder.run()
    assert outcome.code == 2
    assert missing in outcome.stderr
    assert str(model) in outcome.stderr
    assert not folder.store.exists()


@pytest.mark.rest
def test_model_that_is_nowhere_is_said_without_a_traceback(folder: Any) -> None:
    folder.texts("rows.parquet", 1)
    folder.manifest(ONE_JOB, model="nobody/has-this-model")
    outcome = folder.run("--json")
    assert outcome.code == 2
    assert "nobody/has-this-model" in outcome.stderr
    json.loads(outcome.stdout)


@pytest.mark.rest
def test_engine_that_dies_of_everything_exits_5_and_keeps_what_was_finished(folder: Any) -> None:
    prompts = [f"r{n}" if n < 10 else f"# {n}" for n in range(20)]
    folder.parquet("rows.parquet", {"id": list(range(20)), "prompt": prompts})
    folder.manifest(
        """
        engine: {max_seqs: 2}
        jobs:
          - {name: r, kind: raw, input: rows.parquet, sampling: {max_tokens: 4, ignore_eos: true}}
    """,
        model=f"builtin:fake?fail=exit&poison={ord('#')}",
    )
    outcome = folder.run()
    assert outcome.code == 5
    assert "engine" in outcome.stderr.lower()
    run = folder.last_run()
    assert (run["status"], run["exit_code"]) == ("failed", 5)
    counts = [run[f"num_{name}"] for name in ("done", "failed", "reused", "not_run")]
    assert sum(counts) == run["num_items"] == 20
    assert run["num_done"] == folder.one("select count(*) from artifacts") == 10
    assert folder.one("select count(*) from run_items") == 20
    assert folder.one("select count(*) from engine_events where event = 'engine_died'") > 3
