"""Reads the output lengths of earlier runs, from which a plan estimates the next ones."""

from collections.abc import Iterable

import duckdb
import pyarrow as pa

# Per job; older outputs say little about the next ones.
MAX_OUTPUTS = 2048


def read_outputs(
    connection: duckdb.DuckDBPyConnection, jobs: Iterable[str], model_name: str
) -> dict[str, list[int]]:
    """Return, by job, `output_tokens` of the last artifacts that this model computed, newest last.

    At most `MAX_OUTPUTS` per job; a job without any is omitted. Copies are not counted, because
    one output carries no more information in many rows. Sums over samples and stages, as stored.
    """
    connection.register("wanted", pa.table({"job": pa.array(set(jobs), pa.string())}))
    try:
        rows = connection.execute(_OUTPUTS, [model_name, MAX_OUTPUTS]).fetchall()
    finally:
        connection.unregister("wanted")
    return {job: list(tokens) for job, tokens in rows}


_OUTPUTS = """
WITH numbered AS (
    SELECT job, output_tokens, row_number() OVER (
        PARTITION BY job ORDER BY created_at DESC, artifacts.rowid DESC) AS age
    FROM artifacts SEMI JOIN wanted USING (job)
    WHERE model = ? AND reused_from IS NULL AND output_tokens > 0
)
SELECT job, list(output_tokens ORDER BY age DESC) FROM numbered WHERE age <= ? GROUP BY job
"""
