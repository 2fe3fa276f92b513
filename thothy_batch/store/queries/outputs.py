"""Reads the outputs of earlier runs: their lengths, by which a plan estimates, and their ids."""

from collections.abc import Iterable

import duckdb
import pyarrow as pa

from thothy_batch.store.database.database import fetch_row

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


def count_without_token_ids(
    connection: duckdb.DuckDBPyConnection, run_id: str, jobs: Iterable[str]
) -> int:
    """Return the number of artifacts that a run reused for these jobs and that have no ids."""
    row = fetch_row(connection, _WITHOUT_IDS, [run_id, list(jobs)])
    return int(row[0]) if row else 0


_WITHOUT_IDS = """
SELECT count(*) FROM run_items i JOIN artifacts a ON a.artifact_id = i.artifact_id
WHERE i.run_id = ? AND i.status = 'reused' AND a.output_token_ids IS NULL
    AND i.job IN (SELECT unnest(?::VARCHAR[]))
"""

_OUTPUTS = """
WITH numbered AS (
    SELECT job, output_tokens, row_number() OVER (
        PARTITION BY job ORDER BY created_at DESC, artifacts.rowid DESC) AS age
    FROM artifacts SEMI JOIN wanted USING (job)
    WHERE model = ? AND reused_from IS NULL AND output_tokens > 0
)
SELECT job, list(output_tokens ORDER BY age DESC) FROM numbered WHERE age <= ? GROUP BY job
"""
