"""Schema 1: the tables of the first release."""

import duckdb

_COUNTS = (
    "num_items BIGINT, num_done BIGINT, num_failed BIGINT, num_reused BIGINT, num_not_run BIGINT"
)
_TOKENS = (
    "prompt_tokens BIGINT, cached_prompt_tokens BIGINT, output_tokens BIGINT, wasted_tokens BIGINT"
)

_TABLES = (
    """CREATE TABLE artifacts (
        artifact_id VARCHAR PRIMARY KEY, run_id VARCHAR, job VARCHAR, kind VARCHAR,
        item_id VARCHAR, variant VARCHAR, text VARCHAR, data JSON, verdict VARCHAR,
        flags VARCHAR[], finish_reason VARCHAR, prompt_tokens INTEGER,
        cached_prompt_tokens INTEGER, output_tokens INTEGER, output_token_ids INTEGER[],
        queue_s DOUBLE, engine_s DOUBLE, attempt INTEGER, request_key VARCHAR,
        reused_from VARCHAR, model VARCHAR, seed BIGINT, created_at TIMESTAMPTZ,
        wasted_tokens INTEGER)""",
    """CREATE TABLE run_items (
        run_id VARCHAR, job VARCHAR, item_id VARCHAR, variant VARCHAR, status VARCHAR,
        reason VARCHAR, artifact_id VARCHAR)""",
    """CREATE TABLE failures (
        run_id VARCHAR, job VARCHAR, kind VARCHAR, item_id VARCHAR, variant VARCHAR,
        code VARCHAR, message VARCHAR NOT NULL, attempt INTEGER, failed_at TIMESTAMPTZ,
        request_key VARCHAR, wasted_tokens INTEGER)""",
    f"""CREATE TABLE runs (
        run_id VARCHAR PRIMARY KEY, name VARCHAR, status VARCHAR, stop_reason VARCHAR,
        exit_code INTEGER, started_at TIMESTAMPTZ, finished_at TIMESTAMPTZ, manifest JSON,
        manifest_hash VARCHAR, model JSON, engine JSON, versions JSON, host VARCHAR,
        {_COUNTS}, {_TOKENS}, load_s DOUBLE, engine_s DOUBLE, wall_s DOUBLE,
        output_tokens_per_s DOUBLE, artifacts_per_hour DOUBLE, roofline_fraction DOUBLE,
        engine_ready_at TIMESTAMPTZ, last_seen_at TIMESTAMPTZ, computed_tokens BIGINT)""",
    f"""CREATE TABLE job_stats (
        run_id VARCHAR, job VARCHAR, kind VARCHAR, priority INTEGER, {_COUNTS}, {_TOKENS},
        num_flagged BIGINT, queue_s_p50 DOUBLE, queue_s_p95 DOUBLE, prompt_tokens_p50 DOUBLE,
        prompt_tokens_p95 DOUBLE, output_tokens_p50 DOUBLE, output_tokens_p95 DOUBLE,
        first_admitted_at TIMESTAMPTZ, finished_at TIMESTAMPTZ, engine_s DOUBLE,
        output_tokens_per_s DOUBLE, artifacts_per_hour DOUBLE,
        finish_reasons MAP(VARCHAR, BIGINT))""",
    """CREATE TABLE engine_steps (
        run_id VARCHAR, at_s DOUBLE, num_running INTEGER, num_waiting INTEGER,
        prefill_tokens BIGINT, decode_tokens BIGINT, blocks_used BIGINT, blocks_total BIGINT,
        step_s DOUBLE, num_preempted INTEGER)""",
    # The number of entries of each job of a run, as far as known at its start.
    """CREATE TABLE job_entries (
        run_id VARCHAR, job VARCHAR, kind VARCHAR, priority INTEGER, num_items BIGINT)""",
    # These entries, during the run. variants: null if all are ''.
    """CREATE TABLE open_entries (
        run_id VARCHAR, job VARCHAR, item_ids VARCHAR[], variants VARCHAR[])""",
    # Journal segments whose rows are in the tables, so that each counts once after any crash.
    "CREATE TABLE merged_segments (segment_id VARCHAR PRIMARY KEY, merged_at TIMESTAMPTZ)",
    # Ties the result index beside the store to exactly this state of this file.
    "CREATE TABLE store_info (store_id VARCHAR, generation BIGINT, merge_id VARCHAR)",
    "INSERT INTO store_info VALUES (uuid()::VARCHAR, 0, uuid()::VARCHAR)",
)


def apply(connection: duckdb.DuckDBPyConnection) -> None:
    """Create the tables in an empty database."""
    for statement in _TABLES:
        connection.execute(statement)
