"""Section 2: what a manifest may say, and what it may not."""

import json
from typing import Any

import pytest

EVERY_KEY = """
store: out/night.duckdb
model:
  id: "builtin:fake"
  revision: main
  dtype: float32
  quantization: none
  random_weights: false
engine:
  device: cpu
  impl: reference
  block_size: 16
  kv_memory: "64MiB"
  num_blocks: 600
  max_seqs: 4
  max_step_tokens: 256
  prefix_sharing: false
  admission: optimistic
  order: fifo
run:
  seed: 0123
  deadline: 22:30
  time_budget: 5h
  grace: 90s
  max_attempts: 3
jobs:
  - name: 2026-11-23
    kind: summary
    input: data/*.parquet
    columns: {id: sku, text: body}
    params: {max_words: 60, language: no}
    sampling: {temperature: 0.0, top_p: 1.0, top_k: 0, max_tokens: 012, stop: ["zzz"],
               ignore_eos: true, seed: null, repetition_penalty: 1.0, repetition_stop: auto}
    priority: 5
    on_too_long: truncate_tail
    max_failed_pct: 20
output:
  token_ids: true
"""

AUTOS = """
engine: {device: auto, impl: auto, kv_memory: auto, num_blocks: null, max_seqs: auto,
  max_step_tokens: auto, admission: auto, order: auto}
run: {deadline: null, time_budget: null}
jobs:
  - {name: fail, kind: summary, input: rows.parquet, on_too_long: fail}
  - {name: head, kind: summary, input: rows.parquet, on_too_long: truncate_head}
  - {name: n, kind: summary, input: rows.parquet, sampling: {repetition_stop: false}}
"""

WRONG = """
store: artifacts.duckdb
mdoel: {id: x}
model: {dtyp: auto, quantization: fp8}
engine:
  block_sise: 16
  prefix_sharing: yes
  speculation: maybe
  order: random
run:
  max_atempts: 2
  time_budget: 5 hours
  deadline: 25:99
jobs:
  - name: one
    kind: summary
    input: rows.parquet
    priorty: 5
  - name: one
    kind: summary
    input: rows.parquet
    sampling: {max_tokns: 5}
  - name: two
    kind: summary
    input: rows.parquet
    priority: 10
    on_too_long: drop
output: {token_id: true}
"""

SAMPLING = """
jobs:
  - name: one
    kind: hook
    input: rows.parquet
    params: {variants: 3}
    sampling:
      temperature: -0.5
      top_p: 1.5
      top_k: -2
      max_tokens: 0
      stop: 7
      ignore_eos: no
      seed: -1
      repetition_penalty: 0
      repetition_stop: sometimes
"""


def test_every_key_of_the_contract_is_taken(folder: Any) -> None:
    folder.parquet("data/a.parquet", {"sku": ["p1"], "body": ["A lamp, 12 W."]})
    folder.manifest(EVERY_KEY, model=None)
    (folder.path / "out").mkdir()
    assert folder.run().code == 0
    (folder.path / "out/night.duckdb").rename(folder.store)
    run = folder.last_run()
    manifest, engine = json.loads(run["manifest"]), json.loads(run["engine"])
    # YAML 1.2: no is Norwegian, a date is text, 0123 is a decimal number, 22:30 a time.
    job = manifest["jobs"][0]
    assert job["name"] == "2026-11-23"
    assert job["params"]["language"] == "no"
    assert manifest["run"]["seed"] == 123
    assert manifest["run"]["deadline"] == "22:30"
    assert (engine["block_size"], engine["num_blocks"], engine["max_seqs"]) == (16, 600, 4)
    assert (engine["max_step_tokens"], engine["order"]) == (256, "fifo")
    assert engine["prefix_sharing"] is False
    tokens, ids = folder.sql("select output_tokens, output_token_ids from artifacts")[0]
    assert tokens == len(ids) == 12


@pytest.mark.rest
def test_auto_and_null_are_taken_wherever_the_contract_has_them(folder: Any) -> None:
    folder.texts("rows.parquet", 2)
    folder.manifest(AUTOS)
    plan = folder.call("plan", folder.path / "night.yaml", "--json")
    assert plan.code == 0
    assert isinstance(plan.json, dict)
    assert not folder.store.exists(), "plan writes no store"


@pytest.mark.rest
def test_every_wrong_key_is_named_with_its_line_and_the_nearest_name(folder: Any) -> None:
    folder.texts("rows.parquet", 2)
    folder.manifest(WRONG, model=None)
    outcome = folder.run()
    assert outcome.code == 2
    assert not outcome.stdout
    assert not folder.store.exists(), "nothing was started"
    for wrong, nearest in [
        ("mdoel", "model"),
        ("dtyp", "dtype"),
        ("block_sise", "block_size"),
        ("max_atempts", "max_attempts"),
        ("priorty", "priority"),
        ("max_tokns", "max_tokens"),
        ("token_id:", "token_ids"),
    ]:
        where = f"night.yaml:{folder.line_of(wrong)}:"
        outcome.error_line(where, wrong.removesuffix(":"), nearest)
    for value, right in [
        ("fp8", "int8"),
        ("prefix_sharing: yes", "true"),
        ("speculation: maybe", "off"),
        ("order: random", "fifo"),
        ("5 hours", "5h"),
        ("25:99", "06:00"),
        ("priority: 10", "9"),
        ("drop", "truncate_head"),
    ]:
        outcome.error_line(f"night.yaml:{folder.line_of(value)}:", value.split()[-1], right)


@pytest.mark.rest
def test_two_jobs_of_one_name_are_an_error_with_line(folder: Any) -> None:
    folder.texts("rows.parquet", 2)
    folder.manifest("""
        jobs:
          - {name: twin, kind: summary, input: rows.parquet}
          - {name: other, kind: summary, input: rows.parquet}
          - {name: twin, kind: hook, input: rows.parquet}
    """)
    outcome = folder.run()
    assert outcome.code == 2
    second = folder.line_of("kind: hook")
    outcome.error_line(f"night.yaml:{second}:", "twin")


@pytest.mark.rest
def test_impossible_sampling_values_are_errors_with_lines(folder: Any) -> None:
    folder.texts("rows.parquet", 2)
    folder.manifest(SAMPLING)
    outcome = folder.call("plan", folder.path / "night.yaml")
    assert outcome.code == 2
    for key in (
        "temperature",
        "top_p",
        "top_k",
        "max_tokens",
        "stop",
        "ignore_eos",
        "seed",
        "repetition_penalty",
        "repetition_stop",
    ):
        outcome.error_line(f"night.yaml:{folder.line_of(f' {key}:')}:", key)


@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (
            "jobs:\n  - {name: one, kind: hook, input: rows.parquet, params: {variants: 3},\n"
            "     sampling: {temperature: 0}}",
            ["variants", "temperature"],
        ),
        ("jobs: [\n  - {name: one", ["night.yaml:"]),
        ("jobs: []\n", ["jobs"]),
        ("", ["jobs"]),
        (
            "jobs:\n  - {name: one, kind: summary, input: rows.parquet, params: {max_wrds: 5}}\n",
            ["max_wrds", "max_words"],
        ),
        (
            "jobs:\n  - name: one\n    kind: sumary\n    input: rows.parquet\n",
            ["night.yaml:4:", "sumary", "summary"],
        ),
        (
            "jobs:\n  - name: one\n    kind: nowhere.yaml\n    input: rows.parquet\n",
            ["night.yaml:4:", "nowhere.yaml"],
        ),
    ],
    ids=[
        "variants-at-0",
        "broken-yaml",
        "no-jobs",
        "empty",
        "unknown-param",
        "unknown-kind",
        "no-kind-file",
    ],
)
def test_manifest_error_exits_2_and_names_the_file(
    folder: Any, text: str, parts: list[str]
) -> None:
    folder.texts("rows.parquet", 2)
    folder.manifest(text)
    outcome = folder.run()
    assert outcome.code == 2
    assert "night.yaml" in outcome.stderr
    for part in parts:
        assert part in outcome.stderr
    assert not folder.store.exists()
