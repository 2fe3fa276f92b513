"""Schema 4: the reasoning that a model wrote before its text."""

import duckdb


def apply(connection: duckdb.DuckDBPyConnection) -> None:
    """Add the column; null: none was written, or by an older version."""
    connection.execute("ALTER TABLE artifacts ADD COLUMN reasoning VARCHAR")
