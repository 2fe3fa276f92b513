"""One night of every kind, looked at with SQL: tables, counts, failures, artifacts, views."""

import json
import re
from typing import Any

import pyarrow as pa
import pytest

NIGHT = """
store: artifacts.duckdb
engine: {block_size: 16, max_seqs: 8}
run: {seed: 7}
output: {token_ids: true}
jobs:
  - name: summaries
    kind: summary
    input: data/products-*.parquet
    columns: {id: sku, text: body}
    params: {max_words: 20, language: no}
    sampling: {max_tokens: 24}
    priority: 9
    max_failed_pct: 100
  - name: hooks
    kind: hook
    input: {sql: "select sku as id, cast(body as varchar) as text from 'data/products-b.parquet'"}
    params: {variants: 3}
    sampling: {max_tokens: 12}
  - name: single-hooks
    kind: hook
    input: data/products-b.parquet
    columns: {id: sku, text: body}
    params: {variants: 1}
    sampling: {max_tokens: 12, temperature: 0.0}
  - name: translations
    kind: translation
    input: hive
    params: {target_langs: [de, no, sv]}
    sampling: {max_tokens: 10}
  - name: by-column
    kind: translation
    input: langs.parquet
    sampling: {max_tokens: 10}
  - name: by-region
    kind: report
    input: notes.parquet
    params: {group_by: region}
    sampling: {max_tokens: 20}
  - name: alone
    kind: report
    input: notes.parquet
    sampling: {max_tokens: 20}
  - name: prompts
    kind: raw
    input: prompts.parquet
    sampling: {max_tokens: 9, ignore_eos: true}
    priority: 0
  - name: ids
    kind: raw
    input: ids.parquet
    sampling: {max_tokens: 5, ignore_eos: true}
  - name: stops
    kind: raw
    input: {sql: "select id, prompt from 'prompts.parquet' where id in ('p1', 'p2')"}
    sampling: {max_tokens: 60, stop: ["e", "o"]}
"""

PRODUCTS_A = [
    ("A1", b"Lamp A1, 12 W."),
    ("A2", None),
    ("A3", b""),
    ("A4", b"Lamp \xff\xfe A4."),
    ("A5", b"Lamp A5, 15 W."),
    ("A5", b"Another text under an id that stands twice."),
    ("A6", b"Lamp A1, 12 W."),
    (None, b"A lamp without an id."),
    ("A7", b"{{ 7 * 7 }}"),
]
PRODUCTS_B = [("B1", b"Chair B1, 4 kg."), ("B2", b"Chair B2, 5 kg.")]
LONG = "x" * 4090

TYPES = {
    "artifacts": {
        "artifact_id": "VARCHAR",
        "run_id": "VARCHAR",
        "job": "VARCHAR",
        "kind": "VARCHAR",
        "item_id": "VARCHAR",
        "variant": "VARCHAR",
        "text": "VARCHAR",
        "data": "JSON",
        "verdict": "VARCHAR",
        "flags": "VARCHAR[]",
        "finish_reason": "VARCHAR",
        "prompt_tokens": "INTEGER",
        "cached_prompt_tokens": "INTEGER",
        "output_tokens": "INTEGER",
        "output_token_ids": "INTEGER[]",
        "queue_s": "DOUBLE",
        "engine_s": "DOUBLE",
        "attempt": "INTEGER",
        "request_key": "VARCHAR",
        "reused_from": "VARCHAR",
        "model": "VARCHAR",
        "seed": "BIGINT",
        "created_at": "TIMESTAMP WITH TIME ZONE",
    },
    "run_items": dict.fromkeys(
        ("run_id", "job", "item_id", "variant", "status", "reason", "artifact_id"), "VARCHAR"
    ),
    "failures": dict.fromkeys(
        ("run_id", "job", "kind", "item_id", "variant", "code", "message"), "VARCHAR"
    )
    | {"attempt": "INTEGER", "failed_at": "TIMESTAMP WITH TIME ZONE"},
}
COUNTS = "num_items num_done num_failed num_reused num_not_run"
TOKENS = "prompt_tokens cached_prompt_tokens output_tokens wasted_tokens"
NAMES = {
    "runs": f"""run_id name status stop_reason exit_code started_at finished_at manifest
        manifest_hash model engine versions host {COUNTS} {TOKENS} load_s engine_s wall_s
        output_tokens_per_s artifacts_per_hour roofline_fraction""",
    "job_stats": f"""run_id job kind priority {COUNTS} {TOKENS} num_flagged queue_s_p50
        queue_s_p95 prompt_tokens_p50 prompt_tokens_p95 output_tokens_p50 output_tokens_p95
        first_admitted_at finished_at engine_s output_tokens_per_s artifacts_per_hour
        finish_reasons""",
    "engine_steps": """run_id at_s num_running num_waiting prefill_tokens decode_tokens
        blocks_used blocks_total step_s num_preempted""",
}


def write_inputs(folder: Any) -> None:
    for name, rows in (("a", PRODUCTS_A), ("b", PRODUCTS_B)):
        schema = pa.schema([("sku", pa.string()), ("body", pa.binary())])
        table = [dict(zip(("sku", "body"), row, strict=True)) for row in rows]
        # The column is declared text, as a careless exporter would: Parquet does not check it.
        folder.parquet(f"data/products-{name}.parquet", table, schema)
    folder.parquet("hive/lang=en/a.parquet", {"id": ["h1"], "text": ["A table, 70 cm."]})
    folder.parquet("hive/lang=de/b.parquet", {"id": ["h2"], "text": ["Ein Tisch, 70 cm."]})
    folder.parquet(
        "langs.parquet",
        {"id": ["l1", "l2", "l3"], "text": ["One.", "One.", "Two."], "target_lang": list("abc")},
    )
    folder.parquet(
        "notes.parquet",
        {
            "id": ["n1", "n2", "n3"],
            "text": ["Sales rose 3 %.", "Returns fell.", "A storm came."],
            "region": ["north", "south", "north"],
        },
    )
    folder.parquet(
        "prompts.parquet",
        {
            "id": ["p1", "p2", "p3", "p4", "p5"],
            "prompt": ["Once", "Grüße", LONG, "Once", "Zero"],
            "max_tokens": [4, None, None, 4, 0],
        },
    )
    folder.parquet("ids.parquet", {"id": [1, 2, 3], "prompt_token_ids": [[72, 105], [999], []]})


@pytest.fixture(scope="module")
def night(module_folder: Any) -> Any:
    write_inputs(module_folder)
    module_folder.manifest(NIGHT)
    module_folder.outcome = module_folder.run("--json")
    return module_folder


def artifacts(night: Any, job: str, columns: str) -> list[tuple[Any, ...]]:
    return night.sql(f"select {columns} from artifacts where job = ? order by item_id", job)


def test_night_with_failed_entries_exits_1_with_one_json_document(night: Any) -> None:
    outcome = night.outcome
    assert outcome.code == 1
    summary = outcome.json
    row = night.last_run()
    for name in ["run_id", *COUNTS.split()]:
        assert summary[name] == row[name], name
    assert outcome.stderr
    assert not outcome.stderr.lstrip().startswith("{")


def test_relative_paths_are_relative_to_the_manifest(night: Any) -> None:
    assert night.store.exists()
    assert not list(night.cwd.iterdir())


@pytest.mark.parametrize("table", TYPES)
def test_columns_have_their_names_and_types(night: Any, table: str) -> None:
    found = {name: kind for name, kind, *_ in night.sql(f"describe {table}")}
    assert {name: found.get(name) for name in TYPES[table]} == TYPES[table]


@pytest.mark.parametrize("table", NAMES)
def test_tables_have_their_columns(night: Any, table: str) -> None:
    found = {name: kind for name, kind, *_ in night.sql(f"describe {table}")}
    assert set(NAMES[table].split()) <= set(found)
    for name in ("manifest", "model", "engine", "versions"):
        assert table != "runs" or found[name] == "JSON"
    assert table != "job_stats" or found["finish_reasons"].startswith("MAP")


def test_artifact_id_is_the_primary_key(night: Any) -> None:
    keys = night.sql(
        "select constraint_column_names from duckdb_constraints() "
        "where table_name = 'artifacts' and constraint_type = 'PRIMARY KEY'"
    )
    assert keys == [(["artifact_id"],)]


@pytest.mark.parametrize(
    "view", ["latest_artifacts", "job_throughput", "latest_failures", "nights"]
)
def test_views_have_rows(night: Any, view: str) -> None:
    assert night.one(f"select count(*) from {view}") > 0
    assert night.sql(
        "select view_name from duckdb_views() where view_name = ? and not internal", view
    )


def test_every_entry_stands_once_in_run_items(night: Any) -> None:
    total, distinct = night.sql(
        "select count(*), count(distinct (run_id, job, item_id, variant)) from run_items"
    )[0]
    assert total == distinct == night.last_run()["num_items"]
    statuses = {s for (s,) in night.sql("select distinct status from run_items")}
    assert statuses <= {"done", "failed", "reused", "not_run"}


def test_counts_of_run_and_jobs_add_up_to_run_items(night: Any) -> None:
    by_job = night.sql(f"select job, {', '.join(COUNTS.split())} from job_stats order by job")
    counted = night.sql("""
        select job, count(*), count(*) filter (status = 'done'),
            count(*) filter (status = 'failed'), count(*) filter (status = 'reused'),
            count(*) filter (status = 'not_run')
        from run_items group by job order by job""")
    assert by_job == counted
    run = night.last_run()
    for position, name in enumerate(COUNTS.split(), start=1):
        assert run[name] == sum(row[position] for row in counted), name


def test_totals_count_computed_requests_only(night: Any) -> None:
    computed = night.sql("""
        select job, sum(prompt_tokens), sum(cached_prompt_tokens), sum(output_tokens)
        from artifacts where reused_from is null group by job order by job""")
    failed = {
        job
        for (job,) in night.sql(
            "select job from failures where code not in ('invalid_input', 'prompt_too_long')"
        )
    }
    assert failed == set(), "this night has no failures that the engine computed"
    stats = night.sql("""
        select job, prompt_tokens, cached_prompt_tokens, output_tokens
        from job_stats order by job""")
    assert stats == computed
    run = night.last_run()
    for position, name in enumerate(TOKENS.split()[:3], start=1):
        assert run[name] == sum(row[position] for row in computed), name
    assert run["cached_prompt_tokens"] > 0


def test_rates_follow_their_definitions(night: Any) -> None:
    run = night.last_run()
    assert run["engine_s"] > 0
    per_hour = run["num_done"] / run["engine_s"] * 3600
    assert run["artifacts_per_hour"] == pytest.approx(per_hour, rel=0.01)
    per_second = run["output_tokens"] / run["engine_s"]
    assert run["output_tokens_per_s"] == pytest.approx(per_second, rel=0.01)
    assert run["roofline_fraction"] is None
    shares = night.one("select sum(engine_s) from job_stats")
    assert shares == pytest.approx(run["engine_s"], rel=0.05)
    assert run["wall_s"] >= run["engine_s"]


def test_run_row_says_how_it_ended(night: Any) -> None:
    run = night.last_run()
    assert (run["status"], run["exit_code"]) == ("completed", 1)
    assert not run["stop_reason"]
    assert run["started_at"] <= run["finished_at"]
    manifest, engine = json.loads(run["manifest"]), json.loads(run["engine"])
    assert [job["name"] for job in manifest["jobs"]][:2] == ["summaries", "hooks"]
    assert engine["block_size"] == 16
    assert engine["max_seqs"] == 8
    assert "auto" not in (engine["impl"], engine["device"], engine["max_step_tokens"])
    assert run["host"]
    assert json.loads(run["versions"])


def test_engine_steps_are_written_and_stay_within_the_pool(night: Any) -> None:
    rows = night.sql("select blocks_used, blocks_total, num_running from engine_steps")
    assert rows
    for used, total, running in rows:
        assert 0 <= used <= total
        assert running <= 8


def test_unusable_rows_fail_as_invalid_input_and_neighbours_are_done(night: Any) -> None:
    rows = night.sql(
        "select item_id, code, message from failures where job = 'summaries' order by 1"
    )
    assert {code for _, code, _ in rows} == {"invalid_input"}
    by_id = {item: message.lower() for item, _, message in rows}
    assert "null" in by_id["A2"]
    assert "empty" in by_id["A3"]
    assert "utf-8" in by_id["A4"]
    assert len(rows) == 5, rows
    for _, _, message in rows:
        assert "products-a.parquet" in message
    done = night.sql(
        "select item_id, status from run_items where job = 'summaries' and status <> 'failed' "
        "order by 1"
    )
    assert [item for item, _ in done] == ["A1", "A5", "A6", "A7", "B1", "B2"]


def test_first_row_of_a_duplicate_id_wins(night: Any) -> None:
    (message,) = [
        m for _, m in night.sql("select item_id, message from failures where message ilike '%A5%'")
    ]
    assert "A5" in message
    (tokens,) = artifacts(night, "summaries", "prompt_tokens")[1]
    (first,) = artifacts(night, "summaries", "prompt_tokens")[0]
    assert tokens == first  # "Lamp A5, 15 W." is as long as "Lamp A1, 12 W."


def test_identical_rows_of_a_run_are_computed_once(night: Any) -> None:
    rows = night.sql("""
        select a.item_id, i.status, a.artifact_id, a.reused_from, a.text, a.request_key
        from artifacts a join run_items i using (artifact_id)
        where a.job = 'summaries' and a.item_id in ('A1', 'A6') order by i.status""")
    (first, again) = rows
    assert (first[1], again[1]) == ("done", "reused")
    assert first[3] is None
    assert again[3] == first[2]
    assert again[4:] == first[4:]
    assert first[2] != again[2]


def test_hook_variants_are_one_artifact_with_a_list(night: Any) -> None:
    rows = artifacts(
        night, "hooks", "item_id, variant, text, data, output_token_ids, output_tokens"
    )
    assert [row[:2] for row in rows] == [("B1", ""), ("B2", "")]
    for _, _, text, data, ids, tokens in rows:
        hooks = json.loads(data)
        assert len(hooks) == 3
        assert all(isinstance(hook, str) for hook in hooks)
        assert text.splitlines() == hooks
        assert ids is None
        assert tokens <= 3 * 12


def test_one_hook_is_a_list_of_one_with_its_tokens(night: Any) -> None:
    for text, data, ids in artifacts(night, "single-hooks", "text, data, output_token_ids"):
        assert json.loads(data) == [text]
        assert ids


def test_translation_is_one_entry_per_language_and_no_is_norwegian(night: Any) -> None:
    found = night.sql(
        "select item_id, variant from artifacts where job = 'translations' order by all"
    )
    assert found == [(i, v) for i in ("h1", "h2") for v in ("de", "no", "sv")]


def test_target_lang_column_names_the_variant(night: Any) -> None:
    found = night.sql("select item_id, variant from run_items where job = 'by-column' order by all")
    assert found == [("l1", "a"), ("l2", "b"), ("l3", "c")]


def test_report_is_one_per_group_and_its_item_id_is_the_groups_value(night: Any) -> None:
    grouped = artifacts(night, "by-region", "item_id, prompt_tokens")
    alone = artifacts(night, "alone", "item_id, prompt_tokens")
    assert [row[0] for row in grouped] == ["north", "south"]
    assert [row[0] for row in alone] == ["n1", "n2", "n3"]
    assert grouped[0][1] > max(alone[0][1], alone[2][1]) + 10, "both texts stand in the prompt"
    assert all(
        d is None or json.loads(d) is None or isinstance(json.loads(d), dict | list)
        for (d,) in artifacts(night, "alone", "data")
    )


def test_raw_prompt_is_the_prompt_as_it_is(night: Any) -> None:
    rows = artifacts(night, "prompts", "item_id, prompt_tokens, output_tokens, output_token_ids")
    assert [row[:3] for row in rows] == [("p1", 4, 4), ("p2", 7, 9), ("p4", 4, 4)]
    for _, _, tokens, ids in rows:
        assert len(ids) == tokens


def test_stop_text_ends_a_completion_and_is_cut_off(night: Any) -> None:
    rows = artifacts(night, "stops", "text, finish_reason, output_tokens")
    assert len(rows) == 2
    for text, reason, tokens in rows:
        assert reason == "stop"
        assert not set("eo") & set(text)
        assert tokens == len(text) + 1  # the fake's tokens are letters; the stop counts


def test_text_of_a_row_is_data_and_never_a_template(night: Any) -> None:
    tokens = dict(artifacts(night, "summaries", "item_id, prompt_tokens"))
    assert tokens["A1"] - tokens["A7"] == len("Lamp A1, 12 W.") - len("{{ 7 * 7 }}")


def test_impossible_max_tokens_of_a_row_is_an_invalid_input(night: Any) -> None:
    ((code, message),) = night.sql("select code, message from failures where item_id = 'p5'")
    assert code == "invalid_input"
    assert "max_tokens" in message
    assert "0" in message


def test_too_long_prompt_fails_with_the_three_numbers(night: Any) -> None:
    ((code, message),) = night.sql("select code, message from failures where item_id = 'p3'")
    assert code == "prompt_too_long"
    digits = message.replace(",", "")
    assert {"4090", "9", "4096"} <= set(re.findall(r"\d+", digits)), message


def test_prompt_token_ids_are_taken_and_those_out_of_range_refused(night: Any) -> None:
    assert artifacts(night, "ids", "item_id, prompt_tokens, output_tokens") == [("1", 2, 5)]
    found = night.sql("select item_id, code from failures where job = 'ids' order by 1")
    assert found == [("2", "invalid_input"), ("3", "invalid_input")]
    assert "999" in night.one("select message from failures where job = 'ids' and item_id = '2'")


def test_failures_have_codes_and_messages(night: Any) -> None:
    codes = {"invalid_input", "template_error", "prompt_too_long", "invalid_output", "engine_error"}
    rows = night.sql("select code, message, attempt, failed_at, kind from failures")
    assert len(rows) == night.last_run()["num_failed"]
    for code, message, attempt, failed_at, kind in rows:
        assert code in codes
        assert message
        assert attempt >= 0
        assert failed_at is not None
        assert kind


def test_run_items_name_the_artifact_of_what_is_answered(night: Any) -> None:
    wrong = night.sql("""
        select i.* from run_items i left join artifacts a using (artifact_id)
        where (i.status in ('done', 'reused')) <> (a.artifact_id is not null)
            or a.job <> i.job or a.item_id <> i.item_id or a.variant <> i.variant""")
    assert wrong == []


def test_artifact_values_are_of_the_documented_sets(night: Any) -> None:
    rows = night.sql("""
        select verdict, flags, finish_reason, cached_prompt_tokens, prompt_tokens, queue_s,
            engine_s, attempt, model, created_at from artifacts where reused_from is null""")
    for verdict, flags, reason, cached, prompt, queue_s, engine_s, attempt, model, at in rows:
        assert verdict in ("ok", "flagged")
        assert (verdict == "flagged") == bool(flags)
        assert reason in ("stop", "length", "repetition")
        assert 0 <= cached < prompt
        assert queue_s >= 0
        assert engine_s >= 0
        assert attempt >= 1
        assert model == "builtin:fake"
        assert at is not None


def test_priority_9_is_admitted_before_priority_0(night: Any) -> None:
    first, last = night.one("""
        select list(first_admitted_at order by priority desc) from job_stats
        where job in ('summaries', 'prompts')""")
    assert first <= last
    assert night.sql("select job, priority from job_stats where priority <> 5 order by 1") == [
        ("prompts", 0),
        ("summaries", 9),
    ]


def test_finish_reasons_count_the_artifacts_of_the_job(night: Any) -> None:
    reasons = dict(night.sql("select job, finish_reasons from job_stats"))
    assert reasons["prompts"] == {"length": 2}
    flagged = dict(
        night.sql("select job, count(*) filter (verdict = 'flagged') from artifacts group by job")
    )
    assert flagged == dict(night.sql("select job, num_flagged from job_stats"))


def test_status_and_report_of_the_night(night: Any) -> None:
    run = night.last_run()
    status = night.call("status", night.store, "--json")
    assert status.code == 0
    assert run["run_id"] in json.dumps(status.json)
    report = night.call("report", night.store, "--json")
    assert report.code == 0
    assert run["run_id"] in json.dumps(report.json)
    page = night.path / "night.html"
    text = night.call("report", "--html", page, cwd=night.path)  # STORE left out
    assert text.code == 0
    html = page.read_text()
    assert html.lstrip().lower().startswith("<!doctype html>")
    assert "src=" not in html
    assert "<link" not in html
    assert "summaries" in html
