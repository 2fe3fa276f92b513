"""Schema 5: the verdicts and flags of a run, kept when a later run replaces its artifacts."""

import duckdb

_STATEMENTS = (
    # Of a done or reused entry, as it was in that run.
    "ALTER TABLE run_items ADD COLUMN verdict VARCHAR",
    # Flagged artifacts of the job by flag.
    "ALTER TABLE job_stats ADD COLUMN flags MAP(VARCHAR, BIGINT)",
)
# Earlier runs get what their artifacts say today.
_FILLS = (
    """UPDATE run_items SET verdict = a.verdict FROM artifacts a
        WHERE a.artifact_id = run_items.artifact_id AND status IN ('done', 'reused')""",
    """UPDATE job_stats SET flags = counted.flags FROM (
            SELECT run_id, job, histogram(flag)::MAP(VARCHAR, BIGINT) AS flags FROM (
                SELECT i.run_id, i.job, unnest(a.flags) AS flag
                FROM run_items i JOIN artifacts a ON a.artifact_id = i.artifact_id
                WHERE i.status IN ('done', 'reused') AND a.verdict = 'flagged'
            ) GROUP BY run_id, job
        ) counted WHERE counted.run_id = job_stats.run_id AND counted.job = job_stats.job""",
)


def apply(connection: duckdb.DuckDBPyConnection) -> None:
    """Add the columns and fill them."""
    for statement in (*_STATEMENTS, *_FILLS):
        connection.execute(statement)
