"""Cuts the first rows out of a Parquet file."""

import io
from pathlib import Path

import pyarrow.parquet as pq


def first_rows(path: Path, num_rows: int) -> bytes:
    """Return a Parquet file of the first `num_rows` rows."""
    table = pq.read_table(path).slice(0, num_rows)
    written = io.BytesIO()
    pq.write_table(table, written)
    return written.getvalue()
