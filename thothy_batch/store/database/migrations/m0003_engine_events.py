"""Schema 3: what happened to the engine in a run."""

import duckdb


def apply(connection: duckdb.DuckDBPyConnection) -> None:
    """Makes the table."""
    connection.execute(
        """CREATE TABLE engine_events (
            run_id VARCHAR, happened_at TIMESTAMPTZ, event VARCHAR, message VARCHAR,
            num_requests INTEGER, num_tokens BIGINT)"""
    )
