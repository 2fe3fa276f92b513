"""Schema 2: the plan's predictions and promises, beside the results."""

import duckdb

_COLUMNS = (
    # Null: no basis for a prediction, or a run of an older version.
    ("runs", "predicted_s DOUBLE"),  # of engine_s
    ("runs", "planned_prompt_tokens BIGINT"),  # prompt tokens to compute
    ("runs", "computed_prompt_tokens BIGINT"),  # computed for the first time
    ("job_entries", "predicted_s DOUBLE"),  # as given to the run
    ("job_stats", "predicted_s DOUBLE"),  # of the job's engine_s
)


def apply(connection: duckdb.DuckDBPyConnection) -> None:
    """Add the columns."""
    for table, column in _COLUMNS:
        connection.execute(f"ALTER TABLE {table} ADD COLUMN {column}")
