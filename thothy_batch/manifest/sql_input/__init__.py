"""Reads the SQL input of a job in a child process: its files, its order, its types."""

from thothy_batch.manifest.sql_input.rows import SqlRows

__all__ = ["SqlRows"]
