"""Counts a run from its rows, with the same statements after a normal end and after a kill."""

import duckdb

from thothy_batch.store.journal import open_entries

# All entries are counted from run_items. Known entries of a job without a row were not run.
# `reused` needs its artifact: if a user deleted it by hand, the entry is open again. Its reason is
# that of what a run could not do; those of `run_items.reason` are a closed list.
_REOPEN_MISSING = """
UPDATE run_items SET status = 'not_run', reason = 'engine_failed', artifact_id = NULL,
    verdict = NULL
WHERE run_id = $run_id AND status = 'reused'
    AND NOT EXISTS (SELECT 1 FROM artifacts a WHERE a.artifact_id = run_items.artifact_id)
"""

_DELETE_STATS = "DELETE FROM job_stats WHERE run_id = $run_id"

# engine_s of a job: its share of the run's engine time, by the tokens computed for it.
_INSERT_STATS = """
INSERT INTO job_stats BY NAME
WITH run AS (SELECT * FROM runs WHERE run_id = $run_id),
entries AS (
    SELECT job, last(kind) FILTER (kind <> '') AS kind,
        last(priority) FILTER (priority IS NOT NULL) AS priority,
        last(num_items) FILTER (num_items IS NOT NULL) AS num_items,
        last(predicted_s) FILTER (predicted_s IS NOT NULL) AS predicted_s
    FROM job_entries WHERE run_id = $run_id GROUP BY job
),
items AS (
    SELECT i.job, count(*) AS num_written, count(*) FILTER (i.status = 'done') AS num_done,
        count(*) FILTER (i.status = 'failed') AS num_failed,
        count(*) FILTER (i.status = 'reused') AS num_reused,
        count(*) FILTER (coalesce(i.verdict, a.verdict) = 'flagged'
            AND i.status IN ('done', 'reused')) AS num_flagged
    FROM run_items i LEFT JOIN artifacts a ON a.artifact_id = i.artifact_id
    WHERE i.run_id = $run_id GROUP BY i.job
),
flagged AS (
    SELECT job, histogram(flag)::MAP(VARCHAR, BIGINT) AS flags FROM (
        SELECT i.job, unnest(a.flags) AS flag
        FROM run_items i JOIN artifacts a ON a.artifact_id = i.artifact_id
        WHERE i.run_id = $run_id AND i.status IN ('done', 'reused') AND a.verdict = 'flagged'
    ) GROUP BY job
),
made AS (
    SELECT job, sum(prompt_tokens) AS prompt_tokens,
        sum(cached_prompt_tokens) AS cached_prompt_tokens, sum(output_tokens) AS output_tokens,
        sum(wasted_tokens) AS wasted_tokens,
        quantile_cont(queue_s, 0.5) AS queue_s_p50, quantile_cont(queue_s, 0.95) AS queue_s_p95,
        quantile_cont(prompt_tokens, 0.5) AS prompt_tokens_p50,
        quantile_cont(prompt_tokens, 0.95) AS prompt_tokens_p95,
        quantile_cont(output_tokens, 0.5) AS output_tokens_p50,
        quantile_cont(output_tokens, 0.95) AS output_tokens_p95,
        min(queue_s) AS first_queue_s, max(created_at) AS finished_at,
        histogram(finish_reason)::MAP(VARCHAR, BIGINT) AS finish_reasons
    FROM artifacts WHERE run_id = $run_id AND reused_from IS NULL GROUP BY job
),
failed AS (
    SELECT job, last(kind) AS kind, sum(wasted_tokens) AS wasted_tokens,
        max(failed_at) AS finished_at
    FROM failures WHERE run_id = $run_id GROUP BY job
),
kinds AS (SELECT job, last(kind) AS kind FROM artifacts WHERE run_id = $run_id GROUP BY job),
jobs AS (
    SELECT job FROM entries UNION SELECT job FROM items UNION SELECT job FROM kinds
    UNION SELECT job FROM failed
),
joined AS (
    SELECT j.job, coalesce(e.kind, n.kind, f.kind, '') AS kind, coalesce(e.priority, 5) AS priority,
        greatest(coalesce(e.num_items, 0), coalesce(i.num_written, 0)) AS num_items,
        e.predicted_s,
        coalesce(i.num_done, 0) AS num_done, coalesce(i.num_failed, 0) AS num_failed,
        coalesce(i.num_reused, 0) AS num_reused, coalesce(i.num_flagged, 0) AS num_flagged,
        coalesce(m.prompt_tokens, 0)::BIGINT AS prompt_tokens,
        coalesce(m.cached_prompt_tokens, 0)::BIGINT AS cached_prompt_tokens,
        coalesce(m.output_tokens, 0)::BIGINT AS output_tokens,
        (coalesce(m.wasted_tokens, 0) + coalesce(f.wasted_tokens, 0))::BIGINT AS wasted_tokens,
        m.* EXCLUDE (job, prompt_tokens, cached_prompt_tokens, output_tokens, wasted_tokens,
            finished_at),
        greatest(m.finished_at, f.finished_at) AS finished_at, g.flags
    FROM jobs j LEFT JOIN entries e ON e.job = j.job LEFT JOIN items i ON i.job = j.job
    LEFT JOIN kinds n ON n.job = j.job LEFT JOIN made m ON m.job = j.job
    LEFT JOIN failed f ON f.job = j.job LEFT JOIN flagged g ON g.job = j.job
),
shared AS (
    SELECT *, prompt_tokens - cached_prompt_tokens + output_tokens + wasted_tokens AS computed,
        (SELECT engine_s FROM run) * computed / nullif(sum(computed) OVER (), 0) AS job_engine_s
    FROM joined
)
SELECT $run_id AS run_id, job, kind, priority, num_items, num_done, num_failed, num_reused,
    num_items - num_done - num_failed - num_reused AS num_not_run, prompt_tokens,
    cached_prompt_tokens, output_tokens, wasted_tokens, num_flagged, queue_s_p50, queue_s_p95,
    prompt_tokens_p50, prompt_tokens_p95, output_tokens_p50, output_tokens_p95,
    (SELECT engine_ready_at FROM run) + to_microseconds((first_queue_s * 1e6)::BIGINT)
        AS first_admitted_at,
    finished_at, coalesce(job_engine_s, 0) AS engine_s,
    output_tokens / nullif(job_engine_s, 0) AS output_tokens_per_s,
    num_done * 3600 / nullif(job_engine_s, 0) AS artifacts_per_hour, finish_reasons, predicted_s,
    flags
FROM shared
"""

_UPDATE_COUNTS = """
UPDATE runs SET num_items = s.num_items, num_done = s.num_done, num_failed = s.num_failed,
    num_reused = s.num_reused, num_not_run = s.num_not_run, prompt_tokens = s.prompt_tokens,
    cached_prompt_tokens = s.cached_prompt_tokens, output_tokens = s.output_tokens,
    wasted_tokens = coalesce(runs.wasted_tokens, s.wasted_tokens),
    engine_s = coalesce(runs.engine_s, 0)
FROM (
    SELECT coalesce(sum(num_items), 0)::BIGINT AS num_items,
        coalesce(sum(num_done), 0)::BIGINT AS num_done,
        coalesce(sum(num_failed), 0)::BIGINT AS num_failed,
        coalesce(sum(num_reused), 0)::BIGINT AS num_reused,
        coalesce(sum(num_not_run), 0)::BIGINT AS num_not_run,
        coalesce(sum(prompt_tokens), 0)::BIGINT AS prompt_tokens,
        coalesce(sum(cached_prompt_tokens), 0)::BIGINT AS cached_prompt_tokens,
        coalesce(sum(output_tokens), 0)::BIGINT AS output_tokens,
        coalesce(sum(wasted_tokens), 0)::BIGINT AS wasted_tokens
    FROM job_stats WHERE run_id = $run_id
) s WHERE runs.run_id = $run_id
"""

_UPDATE_RATES = """
UPDATE runs SET output_tokens_per_s = output_tokens / nullif(engine_s, 0),
    artifacts_per_hour = num_done * 3600 / nullif(engine_s, 0)
WHERE run_id = $run_id
"""

# A killed run ends at its last sign of life. Tokens computed but never stored count as wasted, as
# recomputed ones do.
_MARK_KILLED = """
UPDATE runs SET status = 'failed', stop_reason = 'killed', exit_code = NULL,
    finished_at = greatest(started_at, last_seen_at,
        (SELECT max(created_at) FROM artifacts a WHERE a.run_id = $run_id),
        (SELECT max(failed_at) FROM failures f WHERE f.run_id = $run_id)),
    wasted_tokens = coalesce(wasted_tokens, 0) + greatest(0, coalesce(computed_tokens, 0) - (
        SELECT coalesce(sum(prompt_tokens - cached_prompt_tokens + output_tokens), 0)
        FROM artifacts a WHERE a.run_id = $run_id AND a.reused_from IS NULL))
WHERE run_id = $run_id
"""
_BURIED_WALL = """
UPDATE runs SET wall_s = greatest(coalesce(wall_s, 0), epoch(finished_at) - epoch(started_at))
WHERE run_id = $run_id
"""


def count_run(connection: duckdb.DuckDBPyConnection, run_id: str) -> None:
    """Write job_stats and the counts of `runs` from the run's rows. Idempotent."""
    for statement in (
        _REOPEN_MISSING,
        _DELETE_STATS,
        _INSERT_STATS,
        _UPDATE_COUNTS,
        _UPDATE_RATES,
    ):
        connection.execute(statement, {"run_id": run_id})


def mark_killed_runs(connection: duckdb.DuckDBPyConnection, *, alive: str) -> list[str]:
    """Mark every running run but `alive` as killed, with its counts; return their ids.

    Entries that they did not reach become rows of run_items; only open entries of `alive` are kept.
    The caller holds the store's lock, so no process belongs to a run still marked running.
    """
    query = "SELECT run_id FROM runs WHERE status = 'running' AND run_id <> ? ORDER BY started_at"
    dead = [row[0] for row in connection.execute(query, [alive]).fetchall()]
    for run_id in dead:
        connection.execute(_MARK_KILLED, {"run_id": run_id})
        connection.execute(_BURIED_WALL, {"run_id": run_id})
        open_entries.insert_not_run(connection, run_id, "killed")
        count_run(connection, run_id)
    open_entries.keep_only(connection, alive)
    return dead
