"""The SQL views of the store."""

# The last run that completed an entry decides, whether it computed or reused the artifact.
_LATEST_ARTIFACTS = """
SELECT artifacts.*
FROM (
    SELECT arg_max(i.artifact_id, (r.started_at, r.run_id)) AS artifact_id
    FROM run_items i JOIN runs r ON r.run_id = i.run_id
    WHERE i.status IN ('done', 'reused')
    GROUP BY i.job, i.item_id, i.variant
) latest JOIN artifacts ON artifacts.artifact_id = latest.artifact_id
"""

_LATEST_FAILURES = """
SELECT last.run_id, last.job, coalesce(f.kind, '') AS kind, last.item_id, last.variant,
    coalesce(f.code, 'engine_error') AS code,
    coalesce(f.message, 'failed; no message was recorded') AS message, f.attempt, f.failed_at
FROM (
    SELECT i.job, i.item_id, i.variant, arg_max(i.run_id, (r.started_at, r.run_id)) AS run_id,
        arg_max(i.status, (r.started_at, r.run_id)) AS status
    FROM run_items i JOIN runs r ON r.run_id = i.run_id
    WHERE i.status IN ('done', 'reused', 'failed')
    GROUP BY i.job, i.item_id, i.variant
) last
LEFT JOIN (
    SELECT job, item_id, variant, last(kind ORDER BY failed_at, rowid) AS kind,
        last(code ORDER BY failed_at, rowid) AS code,
        last(message ORDER BY failed_at, rowid) AS message,
        last(attempt ORDER BY failed_at, rowid) AS attempt, max(failed_at) AS failed_at
    FROM failures GROUP BY job, item_id, variant
) f ON f.job = last.job AND f.item_id = last.item_id AND f.variant = last.variant
WHERE last.status = 'failed'
"""

_JOB_THROUGHPUT = """
SELECT r.run_id, r.name, r.started_at, r.status, s.job, s.kind, s.priority, s.num_items,
    s.num_done, s.num_failed, s.num_reused, s.num_not_run, s.num_flagged,
    s.prompt_tokens, s.cached_prompt_tokens, s.output_tokens, s.engine_s,
    s.output_tokens_per_s, s.artifacts_per_hour, s.queue_s_p50, s.queue_s_p95,
    s.output_tokens_p50, s.output_tokens_p95, s.predicted_s
FROM job_stats s JOIN runs r ON r.run_id = s.run_id
ORDER BY r.started_at DESC, r.run_id DESC, s.priority DESC, s.job
"""

# The jobs of each run, whether or not it has ended.
_RUN_JOBS = """
SELECT r.run_id, list(named.job ORDER BY named.job) AS jobs
FROM runs r LEFT JOIN (
    SELECT run_id, job FROM job_entries UNION SELECT run_id, job FROM job_stats
) named ON named.run_id = r.run_id
GROUP BY r.run_id
"""

# A change of 0.1 is ten per cent above the mean of the last seven runs before it that are like it:
# completed, of the same jobs, and not without work. `num_before` counts these, so that the window
# reaches seven of them back, however many other runs lie between. A run without work has no speed
# to compare, and one that did not complete no engine time.
_NIGHTS = f"""
WITH marked AS (
    SELECT runs.*, of_run.jobs,
        status = 'completed' AND coalesce(output_tokens, 0) > 0 AND engine_s > 0 AS is_like
    FROM runs JOIN ({_RUN_JOBS}) of_run ON of_run.run_id = runs.run_id
),
counted AS (
    SELECT *, count(*) FILTER (WHERE is_like) OVER (
        PARTITION BY jobs ORDER BY started_at, run_id
        ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS num_before
    FROM marked
)
SELECT run_id, name, started_at, status, stop_reason, wall_s, engine_s, num_items, num_done,
    num_failed, num_reused, num_not_run, prompt_tokens, cached_prompt_tokens, output_tokens,
    wasted_tokens, output_tokens_per_s, artifacts_per_hour,
    output_tokens_per_s / nullif(avg(output_tokens_per_s) FILTER (WHERE is_like) OVER before, 0)
        - 1 AS output_tokens_per_s_change,
    artifacts_per_hour / nullif(avg(artifacts_per_hour) FILTER (WHERE is_like) OVER before, 0) - 1
        AS artifacts_per_hour_change,
    CASE WHEN is_like THEN engine_s END
        / nullif(avg(engine_s) FILTER (WHERE is_like) OVER before, 0) - 1 AS engine_s_change,
    count(*) FILTER (WHERE is_like) OVER before AS num_compared, roofline_fraction, predicted_s
FROM counted
WINDOW before AS (PARTITION BY jobs ORDER BY num_before
    RANGE BETWEEN 7 PRECEDING AND 1 PRECEDING)
ORDER BY started_at DESC, run_id DESC
"""

VIEWS = {
    "latest_artifacts": _LATEST_ARTIFACTS,
    "job_throughput": _JOB_THROUGHPUT,
    "latest_failures": _LATEST_FAILURES,
    "nights": _NIGHTS,
}
