"""Schema 2: what a plan predicted and promised, beside what it came to."""

import duckdb

_COLUMNS = (
    # Null in all of them: nothing to go by, or a run of before.
    ("runs", "predicted_s DOUBLE"),  # of engine_s
    ("runs", "planned_prompt_tokens BIGINT"),  # to compute
    ("runs", "computed_prompt_tokens BIGINT"),  # for the first time
    ("job_entries", "predicted_s DOUBLE"),  # as the run was told
    ("job_stats", "predicted_s DOUBLE"),  # of the job's engine_s
)


def apply(connection: duckdb.DuckDBPyConnection) -> None:
    """Adds the columns."""
    for table, column in _COLUMNS:
        connection.execute(f"ALTER TABLE {table} ADD COLUMN {column}")
