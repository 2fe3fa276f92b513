"""The schema: as the contract says, older ones open, newer ones and strangers are refused."""

import gzip
from pathlib import Path
from typing import Any

import duckdb
import pytest

from thothy_batch.errors import StoreError
from thothy_batch.store import columns
from thothy_batch.store.database import schema
from thothy_batch.store.leftovers import publish_if_free
from thothy_batch.store.queries.read import past_outputs, report_data
from thothy_batch.store.store import Store

GOLDEN = Path(__file__).resolve().parents[2] / "golden"

# The interface: names, order and types of contract section 3. More columns may follow these.
CONTRACT = {
    "artifacts": "artifact_id VARCHAR, run_id VARCHAR, job VARCHAR, kind VARCHAR, item_id VARCHAR,"
    "variant VARCHAR, text VARCHAR, data JSON, verdict VARCHAR, flags VARCHAR[],"
    "finish_reason VARCHAR, prompt_tokens INTEGER, cached_prompt_tokens INTEGER,"
    "output_tokens INTEGER, output_token_ids INTEGER[], queue_s DOUBLE, engine_s DOUBLE,"
    "attempt INTEGER, request_key VARCHAR, reused_from VARCHAR, model VARCHAR, seed BIGINT,"
    "created_at TIMESTAMP WITH TIME ZONE",
    "run_items": "run_id VARCHAR, job VARCHAR, item_id VARCHAR, variant VARCHAR, status VARCHAR,"
    "reason VARCHAR, artifact_id VARCHAR",
    "failures": "run_id VARCHAR, job VARCHAR, kind VARCHAR, item_id VARCHAR, variant VARCHAR,"
    "code VARCHAR, message VARCHAR, attempt INTEGER, failed_at TIMESTAMP WITH TIME ZONE",
    "runs": "run_id VARCHAR, name VARCHAR, status VARCHAR, stop_reason VARCHAR,"
    "exit_code INTEGER, started_at TIMESTAMP WITH TIME ZONE,"
    "finished_at TIMESTAMP WITH TIME ZONE, manifest JSON, manifest_hash VARCHAR, model JSON,"
    "engine JSON, versions JSON, host VARCHAR, num_items BIGINT, num_done BIGINT,"
    "num_failed BIGINT, num_reused BIGINT, num_not_run BIGINT, prompt_tokens BIGINT,"
    "cached_prompt_tokens BIGINT, output_tokens BIGINT, wasted_tokens BIGINT, load_s DOUBLE,"
    "engine_s DOUBLE, wall_s DOUBLE, output_tokens_per_s DOUBLE, artifacts_per_hour DOUBLE,"
    "roofline_fraction DOUBLE",
    "job_stats": "run_id VARCHAR, job VARCHAR, kind VARCHAR, priority INTEGER, num_items BIGINT,"
    "num_done BIGINT, num_failed BIGINT, num_reused BIGINT, num_not_run BIGINT,"
    "prompt_tokens BIGINT, cached_prompt_tokens BIGINT, output_tokens BIGINT,"
    "wasted_tokens BIGINT, num_flagged BIGINT, queue_s_p50 DOUBLE, queue_s_p95 DOUBLE,"
    "prompt_tokens_p50 DOUBLE, prompt_tokens_p95 DOUBLE, output_tokens_p50 DOUBLE,"
    "output_tokens_p95 DOUBLE, first_admitted_at TIMESTAMP WITH TIME ZONE,"
    "finished_at TIMESTAMP WITH TIME ZONE, engine_s DOUBLE, output_tokens_per_s DOUBLE,"
    '"artifacts_per_hour" DOUBLE, finish_reasons MAP(VARCHAR, BIGINT)',
    "engine_steps": "run_id VARCHAR, at_s DOUBLE, num_running INTEGER, num_waiting INTEGER,"
    "prefill_tokens BIGINT, decode_tokens BIGINT, blocks_used BIGINT, blocks_total BIGINT,"
    "step_s DOUBLE, num_preempted INTEGER",
}


@pytest.mark.parametrize("table", CONTRACT)
def test_tables_have_the_columns_of_the_contract(harness: Any, table: str) -> None:
    with duckdb.connect() as plain:
        plain.execute(f"CREATE TABLE wanted ({CONTRACT[table]})")
        wanted = plain.execute("SELECT column_name, column_type FROM (DESCRIBE wanted)").fetchall()
    found = harness.query(f"SELECT column_name, column_type FROM (DESCRIBE {table})")
    assert found[: len(wanted)] == wanted


@pytest.mark.parametrize(
    ("table", "defined"),
    [
        ("artifacts", columns.ARTIFACTS),
        ("run_items", columns.RUN_ITEMS),
        ("failures", columns.FAILURES),
        ("runs", columns.RUNS),
        ("engine_steps", columns.ENGINE_STEPS),
        ("engine_events", columns.ENGINE_EVENTS),
        ("job_entries", columns.JOB_ENTRIES),
        ("open_entries", columns.OPEN_ENTRIES),
    ],
)
def test_journal_columns_are_the_table_columns(
    harness: Any, table: str, defined: columns.Columns
) -> None:
    found = harness.query(f"SELECT column_name, column_type FROM (DESCRIBE {table})")
    names = {"TIMESTAMPTZ": "TIMESTAMP WITH TIME ZONE"}
    assert found == [(n, names.get(t.sql, t.sql)) for n, t in defined.items()]


def test_artifact_id_is_the_primary_key(harness: Any) -> None:
    keys = harness.query(
        "SELECT constraint_column_names FROM duckdb_constraints() "
        "WHERE table_name = 'artifacts' AND constraint_type = 'PRIMARY KEY'"
    )
    assert keys == [(["artifact_id"],)]


def test_new_files_are_in_the_format_of_duckdb_1_2(harness: Any) -> None:
    tags = harness.query("SELECT tags FROM duckdb_databases() WHERE NOT internal")
    assert tags[0][0]["storage_version"].startswith("v1.2")


def test_the_store_of_the_first_release_opens(tmp_path: Path) -> None:
    path = tmp_path / "artifacts.duckdb"
    path.write_bytes(gzip.decompress((GOLDEN / "store-schema-1.duckdb.gz").read_bytes()))
    store = Store.open(path)
    results = store.cached_results(["key-a"])
    assert results["key-a"].verdicts.keys() == {"id-a", "id-b1", "id-b2"}
    store.begin_run({"run_id": "run3", "name": "golden"})
    store.end_run({"status": "completed"})
    store.close()
    data = report_data(path, "run2")
    assert (data["run"]["num_reused"], data["run"]["num_failed"]) == (2, 1)
    assert len(data["nights"]) == 2
    assert data["run"]["predicted_s"] is None  # a column of schema 2
    assert data["flags"] == [{"job": "notes", "flag": "short", "num": 2}]  # of schema 4, filled
    assert data["jobs"][0]["num_flagged"] == 2


def test_the_store_of_the_first_release_can_be_read_as_it_is(tmp_path: Path) -> None:
    """By commands that find nothing to publish, and a user who may not write."""
    path = tmp_path / "artifacts.duckdb"
    content = gzip.decompress((GOLDEN / "store-schema-1.duckdb.gz").read_bytes())
    path.write_bytes(content)
    data = report_data(path, "run1")
    assert (data["run"]["num_done"], "predicted_s" in data["run"]) == (1, False)
    assert past_outputs(path, ["notes"], "tiny") == {"notes": [3]}
    assert path.read_bytes() == content


def test_a_newer_schema_is_refused(harness: Any) -> None:
    with duckdb.connect(str(harness.path)) as connection:
        connection.execute("INSERT INTO schema_version (version) VALUES (99)")
    before = harness.path.read_bytes()
    for use in (Store.open, report_data):
        with pytest.raises(StoreError, match="newer thothy-batch") as caught:
            use(harness.path)
        assert "pip install -U" in caught.value.hint
    assert harness.path.read_bytes() == before


def test_migrations_run_once_each_and_in_order(
    harness: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A made-up migration on a store of the last schema."""

    def add_colour(connection: duckdb.DuckDBPyConnection) -> None:
        connection.execute("ALTER TABLE runs ADD COLUMN colour VARCHAR DEFAULT 'blue'")

    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, add_colour))
    monkeypatch.setattr(schema, "SCHEMA_VERSION", schema.SCHEMA_VERSION + 1)
    for _ in range(2):
        Store.open(harness.path).close()
    versions = harness.query("SELECT version FROM schema_version ORDER BY version")
    assert versions == [(n,) for n in range(1, schema.SCHEMA_VERSION + 1)]
    assert "colour" in [row[0] for row in harness.query("DESCRIBE runs")]


def test_a_failing_migration_leaves_the_store_as_it_was(
    harness: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(connection: duckdb.DuckDBPyConnection) -> None:
        connection.execute("ALTER TABLE runs ADD COLUMN colour VARCHAR")
        connection.execute("SELECT * FROM no_such_table")

    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, half))
    monkeypatch.setattr(schema, "SCHEMA_VERSION", schema.SCHEMA_VERSION + 1)
    with pytest.raises(StoreError):
        Store.open(harness.path)
    assert "colour" not in [row[0] for row in harness.query("DESCRIBE runs")]
    before = schema.SCHEMA_VERSION - 1
    assert harness.query("SELECT max(version) FROM schema_version") == [(before,)]


def test_somebody_elses_tables_are_not_touched(blank: Any) -> None:
    with duckdb.connect(str(blank.path)) as connection:
        connection.execute("CREATE TABLE runs (speed INTEGER)")
    with pytest.raises(StoreError, match="own table runs"):
        Store.open(blank.path)
    assert blank.query("SHOW TABLES") == [("runs",)]


@pytest.mark.parametrize("content", [b"name,price\nlamp,3\n", b"DUCK" * 3000, b"x"])
def test_a_file_that_is_no_database_is_named_and_left_alone(blank: Any, content: bytes) -> None:
    blank.path.write_bytes(content)
    with pytest.raises(StoreError, match=str(blank.path)) as caught:
        Store.open(blank.path)
    assert caught.value.hint
    assert blank.path.read_bytes() == content
    with pytest.raises(StoreError):
        report_data(blank.path)


def test_an_empty_file_becomes_a_store(blank: Any) -> None:
    blank.path.touch()
    Store.open(blank.path).close()
    assert blank.query("SELECT count(*) FROM runs") == [(0,)]


def test_a_log_without_its_database_is_not_applied_to_a_new_one(blank: Any, rows: Any) -> None:
    wal = blank.path.with_name(blank.path.name + ".wal")
    wal.write_bytes(b"left by a database that was deleted")
    with blank.run() as store:
        rows.add_done(store, 1)
        store.end_run({"status": "completed"})
    assert not wal.exists()
    assert blank.query("SELECT count(*) FROM artifacts") == [(1,)]


def test_publishing_needs_no_database_when_nothing_waits(tmp_path: Path) -> None:
    assert publish_if_free(tmp_path / "no.duckdb")
    assert list(tmp_path.iterdir()) == []


def test_the_client_of_this_machine_can_query_the_views(harness: Any) -> None:
    """From a fresh process, opened by path: a view must not name the database it was made in."""
    for view in ("latest_artifacts", "job_throughput", "latest_failures", "nights"):
        assert harness.query(f"SELECT * FROM {view}") == []
    moved = harness.path.with_name("renamed.duckdb")
    harness.path.rename(moved)
    with duckdb.connect(str(moved)) as connection:
        assert connection.execute("SELECT * FROM latest_artifacts").fetchall() == []
