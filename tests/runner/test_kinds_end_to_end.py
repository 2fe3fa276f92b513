"""Kinds in whole runs on the fake engine: stages, samples, job manifests, plans."""

from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from thothy_batch.manifest.settings import Overrides
from thothy_batch.runner.commands.plan import plan_manifest
from thothy_batch.runner.commands.run import run_manifest
from thothy_batch.runner.monitoring.progress import Silent
from thothy_batch.runner.session.options import RunOptions

TWO_STAGES = """\
kind: two
version: 1
entry: item
fields: [text]
sampling: {temperature: 0.0, max_tokens: 12, ignore_eos: true}
document: "{{ text }}"
stages:
  - {name: draft, instruction: Draft it.}
  - {name: polish, instruction: "Polish this: {{ previous }}"}
output: {format: text}
checks: {empty: fail}
"""


def test_stages_follow_each_other_and_their_tokens_add_up(project: Any) -> None:
    (project.folder / "two.yaml").write_text(TWO_STAGES)
    project.rows("rows.parquet", id=["a", "b", "c"], text=["one", "two", "one"])
    project.jobs("name: j, kind: two.yaml, input: rows.parquet")
    run = project.run()
    assert (run.counts["num_done"], run.counts["num_reused"]) == (2, 1)
    rows = project.query("select output_tokens, prompt_tokens from artifacts order by item_id")
    first = len("one\n\nDraft it.\n\n")
    second = len("one\n\nPolish this: ") + 12 + len("\n\n")
    assert rows[0][0] == 24
    assert abs(rows[0][1] - first - second) <= 2  # white space at the draft's ends is stripped
    assert project.run().output_tokens == 0


def test_variants_are_samples_of_one_prompt(project: Any) -> None:
    project.rows("rows.parquet", id=["a"], text=["A text."])
    project.jobs("name: j, kind: hook, input: rows.parquet, params: {variants: 4}")
    project.run()
    ((count, seed, ids),) = project.query(
        "select json_array_length(data), seed, output_token_ids from artifacts"
    )
    assert count == 4
    assert seed > 0
    assert ids is None


@pytest.mark.rest
def test_the_pool_has_room_for_all_samples_of_the_only_prompt(project: Any) -> None:
    project.jobs(
        "name: j, kind: hook, input: rows.parquet, params: {variants: 12}, "
        "sampling: {max_tokens: 34}",
        more="engine: {max_seqs: 1}",
    )
    for num in range(1, 33, 4):  # wherever in a block the prompt ends
        project.rows("rows.parquet", id=["a"], text=["x" * num])
        assert project.run().counts["num_done"] == 1


def test_a_row_overrides_max_tokens_of_its_job(project: Any) -> None:
    project.rows("rows.parquet", id=["a", "b"], prompt=["x", "y"], max_tokens=[3, None])
    project.jobs(
        "name: j, kind: raw, input: rows.parquet, sampling: {max_tokens: 7, ignore_eos: true}"
    )
    project.run()
    rows = project.query("select item_id, output_tokens from artifacts order by item_id")
    assert rows == [("a", 3), ("b", 7)]


def test_a_parquet_job_manifest_mixes_kinds(project: Any) -> None:
    rows = {
        "job": ["s", "t", "t", "h"],
        "kind": ["summary", "translation", "translation", "hook"],
        "id": ["1", "1", "2", "1"],
        "text": ["A text.", "A text.", "Another.", "A text."],
        "target_lang": [None, "de", "fr", None],
        "params": [None, None, None, '{"variants": 2}'],
        "max_tokens": [20, 20, 20, 20],
    }
    path = project.folder / "jobs.parquet"
    pq.write_table(pa.table(rows), path)
    options = RunOptions(
        path, Overrides(model="builtin:fake"), start_engine=project.options().start_engine
    )
    run = run_manifest(options, Silent())
    assert run.counts["num_done"] == 4
    found = project.query("select job, item_id, variant from artifacts order by all")
    assert found == [("h", "1", ""), ("s", "1", ""), ("t", "1", "de"), ("t", "2", "fr")]
    assert project.query("select json_array_length(data) from artifacts where job = 'h'") == [(2,)]


def test_workers_and_this_process_prepare_the_same(project: Any, monkeypatch: Any) -> None:
    project.rows("rows.parquet", id=list(range(20)), text=[f"text {i}" for i in range(20)])
    project.jobs("name: j, kind: summary, input: rows.parquet, sampling: {max_tokens: 8}")
    here = plan_manifest(project.options(), Silent())
    project.run()
    monkeypatch.setattr("thothy_batch.runner.entries.prepare.IN_PROCESS_LIMIT", 5)
    there = plan_manifest(project.options(), Silent())
    assert there["num_already_done"] == 20
    assert there["jobs"][0]["num_items"] == here["num_to_compute"] == 20


def test_a_plan_counts_what_the_run_then_does(project: Any) -> None:
    project.rows("rows.parquet", id=["a", "b", "c", "d"], text=["x", "x", "y", None])
    project.jobs("name: j, kind: summary, input: rows.parquet, sampling: {max_tokens: 8}")
    plan = plan_manifest(project.options(), Silent())
    run = project.run()
    assert plan["num_to_compute"] == run.counts["num_done"] == 2
    assert plan["num_duplicates"] == run.counts["num_reused"] == 1
    assert plan["num_failed"] == run.counts["num_failed"] == 1
    assert plan["requests"]["prompt"]["total"] == run.prompt_tokens
    assert "Task: summary" in plan["first_prompt"]
