"""Section 4: done, reused, failed; what a request's identity is; determinism."""

import json
from typing import Any

import pytest

SUMMARY = """
jobs:
  - name: {name}
    kind: summary
    input: rows.parquet
    sampling: {{max_tokens: 12}}
"""

ALWAYS_FAILS = """
kind: strict
version: 1
description: A check that no completion of letters passes.
entry: item
fields: [text]
params: {}
sampling: {temperature: 0.0, max_tokens: 8}
document: |
  {{ text }}
stages:
  - name: draft
    instruction: |
      Write the section.
output: {format: sections, sections: [Overview]}
checks:
  sections: fail
"""


def counts(folder: Any) -> dict[str, int]:
    """done, failed, reused, not_run of the last run, which add up."""
    run = folder.last_run()
    found = {name: run[f"num_{name}"] for name in ("done", "failed", "reused", "not_run")}
    assert sum(found.values()) == run["num_items"]
    return {name: count for name, count in found.items() if count}


@pytest.mark.rest
def test_a_night_goes_on_where_the_last_one_stopped(folder: Any) -> None:
    folder.texts("rows.parquet", 5)
    folder.manifest(SUMMARY.format(name="s"))

    assert folder.run("--quiet").code == 0
    assert counts(folder) == {"done": 5}
    first = folder.sql("select artifact_id, text, run_id from artifacts order by 1")

    again = folder.run("--json")
    assert again.code == 0
    assert counts(folder) == {"reused": 5}
    run = folder.last_run()
    assert (run["prompt_tokens"], run["output_tokens"]) == (0, 0)
    assert run["artifacts_per_hour"] in (0, None)
    assert folder.sql("select artifact_id, text, run_id from artifacts order by 1") == first
    assert again.json["num_reused"] == 5

    # One row edited, ten added: eleven are computed, the artifact of the old text stays.
    rows = [
        {"id": f"i{n}", "text": f"Text number {n} on the lamp L-{n}, {n + 3} W."} for n in range(15)
    ]
    rows[2]["text"] = "Another text."
    folder.parquet("rows.parquet", rows)
    assert folder.run().code == 0
    assert counts(folder) == {"done": 11, "reused": 4}
    assert folder.one("select count(*) from artifacts") == 16
    assert folder.one("select count(*) from latest_artifacts") == 15
    latest = folder.one("select artifact_id from latest_artifacts where item_id = 'i2'")
    assert latest not in {artifact_id for artifact_id, *_ in first}

    # The same rows in another order and under another job name: nothing is computed.
    folder.parquet("rows.parquet", rows[::-1])
    folder.manifest(SUMMARY.format(name="renamed"))
    assert folder.run().code == 0
    assert counts(folder) == {"reused": 15}
    assert folder.last_run()["output_tokens"] == 0
    pairs = folder.sql("""
        select a.text = b.text, a.request_key = b.request_key, a.artifact_id = b.artifact_id
        from latest_artifacts a join artifacts b on b.artifact_id = a.reused_from
        where a.job = 'renamed'""")
    assert pairs == [(True, True, False)] * 15

    # --force computes and replaces; --limit looks at the first rows; --job picks.
    assert folder.run("--force", "--limit", 2).code == 0
    assert counts(folder) == {"done": 2}
    assert folder.one("select count(*) from artifacts where job = 'renamed'") == 15
    replaced = folder.sql(
        "select reused_from, run_id from artifacts where job = 'renamed' and item_id = 'i14'"
    )
    assert replaced == [(None, folder.last_run()["run_id"])]

    nights = folder.sql("select num_done, num_reused from nights order by started_at")
    assert nights == [(5, 0), (0, 5), (11, 4), (0, 15), (2, 0)]


@pytest.mark.rest
def test_failed_entries_stay_failed_until_they_are_retried_or_repaired(folder: Any) -> None:
    folder.texts("rows.parquet", 3)
    folder.path.joinpath("strict.yaml").write_text(ALWAYS_FAILS)
    folder.parquet("bad.parquet", {"id": ["x"], "text": [""]})
    folder.manifest("""
        run: {max_attempts: 2}
        jobs:
          - {name: strict, kind: strict.yaml, input: rows.parquet, max_failed_pct: 100}
          - {name: repaired, kind: summary, input: bad.parquet, sampling: {max_tokens: 12}}
    """)

    assert folder.run().code == 1
    assert counts(folder) == {"failed": 4}
    rows = folder.sql(
        "select item_id, code, message <> '', attempt from failures where job = 'strict' order by 1"
    )
    assert {row[1] for row in rows} == {"invalid_output"}
    assert {row[2] for row in rows} == {True}
    assert {row[0] for row in rows} == {"i0", "i1", "i2"}
    wasted = folder.last_run()["wasted_tokens"]
    assert wasted > 0
    assert folder.one("select count(*) from artifacts") == 0
    assert folder.one("select count(*) from latest_failures") == 4

    folder.parquet("bad.parquet", {"id": ["x"], "text": ["A chair, 4 kg."]})
    assert folder.run().code == 1
    assert counts(folder) == {"done": 1, "failed": 3}
    assert folder.last_run()["wasted_tokens"] == 0
    assert folder.sql("select distinct job from latest_failures") == [("strict",)]

    assert folder.run("--retry-failed").code == 1
    assert counts(folder) == {"reused": 1, "failed": 3}
    assert folder.last_run()["wasted_tokens"] > 0
    assert folder.one("select max(attempt) from failures where job = 'strict'") > rows[0][3]


@pytest.mark.rest
def test_run_seed_counts_only_where_temperature_is_above_0(folder: Any) -> None:
    folder.texts("rows.parquet", 3)
    text = """
        run: {{seed: {seed}}}
        jobs:
          - {{name: greedy, kind: summary, input: rows.parquet, sampling: {{max_tokens: 9}}}}
          - {{name: drawn, kind: summary, input: rows.parquet,
             sampling: {{max_tokens: 9, temperature: 1.0}}}}
          - {{name: own-seed, kind: summary, input: rows.parquet,
             sampling: {{max_tokens: 9, temperature: 1.0, seed: 5}}}}
    """
    folder.manifest(text.format(seed=1))
    assert folder.run().code == 0
    assert counts(folder) == {"done": 9}
    folder.manifest(text.format(seed=2))
    assert folder.run("--job", "greedy", "--job", "drawn").code == 0
    found = folder.sql(
        "select job, num_done, num_reused from job_stats where run_id = ? order by 1",
        folder.last_run()["run_id"],
    )
    assert found == [("drawn", 3, 0), ("greedy", 0, 3)]


@pytest.mark.rest
def test_output_does_not_depend_on_neighbours_order_pool_or_preemption(folder: Any) -> None:
    rows = [{"id": f"r{n}", "prompt": f"The lamp number {n} " * 3} for n in range(20)]
    job = """
        jobs:
          - name: drawn
            kind: raw
            input: rows.parquet
            sampling: {temperature: 0.9, seed: 3, max_tokens: 40, ignore_eos: true}
    """
    folder.parquet("rows.parquet", rows)
    folder.manifest("engine: {order: fifo}\n" + job.replace("\n        ", "\n"))
    assert folder.run().code == 0
    query = "select item_id, text, output_tokens from artifacts order by 1"
    expected = folder.sql(query)
    assert len({text for _, text, _ in expected}) == 20
    assert {tokens for *_, tokens in expected} == {40}

    folder.parquet("rows.parquet", rows[::-2])
    folder.manifest(
        "engine: {num_blocks: 24, block_size: 8, max_seqs: 6, admission: optimistic,\n"
        "  prefix_sharing: false, max_step_tokens: 16}\n" + job.replace("\n        ", "\n")
    )
    small = folder.path / "small.duckdb"
    assert folder.run("--store", small).code == 0
    folder.store.rename(folder.path / "large.duckdb")
    small.rename(folder.store)
    assert folder.sql(query) == [row for row in expected if int(row[0][1:]) % 2 == 1]
    run = folder.last_run()
    preempted = folder.one("select sum(num_preempted) from engine_steps")
    assert preempted > 0
    assert run["wasted_tokens"] > 0
    assert json.loads(run["engine"])["num_blocks"] == 24


@pytest.mark.rest
def test_job_stops_when_too_many_answered_rows_failed(folder: Any) -> None:
    folder.texts("rows.parquet", 200)
    folder.path.joinpath("strict.yaml").write_text(ALWAYS_FAILS)
    folder.manifest("""
        engine: {max_seqs: 2}
        run: {max_attempts: 1}
        jobs:
          - {name: strict, kind: strict.yaml, input: rows.parquet, max_failed_pct: 20}
          - {name: s, kind: summary, input: rows.parquet, sampling: {max_tokens: 5}, priority: 0}
    """)
    assert folder.run().code == 1
    found = dict(folder.sql("select job, (num_done, num_failed, num_not_run) from job_stats"))
    assert found["s"] == (200, 0, 0)
    done, failed, not_run = found["strict"]
    assert done == 0
    assert failed >= 20
    assert not_run > 0
    reasons = folder.sql("select distinct reason from run_items where status = 'not_run'")
    assert reasons == [("job_stopped",)]
    assert folder.last_run()["status"] == "completed"
