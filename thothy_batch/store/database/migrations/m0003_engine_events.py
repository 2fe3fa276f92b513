"""Schema 3: the events of the engine during a run."""

import duckdb


def apply(connection: duckdb.DuckDBPyConnection) -> None:
    """Create the table."""
    connection.execute(
        """CREATE TABLE engine_events (
            run_id VARCHAR, happened_at TIMESTAMPTZ, event VARCHAR, message VARCHAR,
            num_requests INTEGER, num_tokens BIGINT)"""
    )
