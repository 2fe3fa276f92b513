"""Reads the data of `report` and `status` while other programs may use the store."""

import json
import time
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import duckdb

from thothy_batch.errors import StoreBusyError, StoreError
from thothy_batch.store.database.database import fetch_row, open_database
from thothy_batch.store.database.schema import check_version, read_version
from thothy_batch.store.files import real_path
from thothy_batch.store.queries.outputs import read_outputs
from thothy_batch.store.queries.result_lookup import CachedResult, ResultLookup, read_results

Result = TypeVar("Result")
Fields = dict[str, Any]

_RETRY_S = 10.0  # a merge takes well under a second; a longer hold is another user's open session
_MAX_EXAMPLES = 3
_MAX_POINTS = 240
_NUM_NIGHTS = 8
# Schemas since which a store has them; an older one may be read without migration.
_EVENTS_SINCE, _FLAGS_SINCE = 3, 4
_JSON_COLUMNS = ("manifest", "model", "engine", "versions")


def read_store(store_path: Path, read: Callable[[duckdb.DuckDBPyConnection], Result]) -> Result:
    """Call `read` with a read-only connection, retrying while a run merges.

    Raises StoreError if the store is missing or has a newer schema; StoreBusyError if the file
    stays locked for ten seconds.
    """
    path = real_path(store_path)
    if not path.exists():
        raise StoreError(
            f"there is no store at {store_path}",
            hint="run a manifest first, or name the store as an argument",
        )
    deadline = time.monotonic() + _RETRY_S
    while True:
        try:
            with open_database(path, read_only=True) as connection:
                _check_schema(connection, path)
                return read(connection)
        except StoreBusyError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.1)


def report_data(store_path: Path, run: str | None = None) -> Fields:
    """Return one run as plain values (times as ISO text in local time), for a report or as JSON.

    `run` is a run_id or a prefix of one; default: the last run. Keys: store, run (its row), jobs
    (rows of job_stats), failures (per code, with examples), flags, steps, events (of the engine),
    nights (newest first).
    """
    data = read_store(store_path, lambda connection: _read_run(connection, run))
    return {"store": str(store_path), **data}


def list_runs(store_path: Path, *, limit: int = 20) -> list[Fields]:
    """Return the last runs, newest first: rows of the view `nights`."""
    query = "SELECT * FROM nights ORDER BY started_at DESC, run_id DESC LIMIT ?"
    return read_store(store_path, lambda connection: _rows(connection, query, [limit]))


def past_speed(store_path: Path, model_name: str, *, num_runs: int = 5) -> float | None:
    """Return output tokens per engine second over the last runs with a model; None without runs.

    Runs with less than a second of engine time are ignored.
    """
    rows = read_store(store_path, lambda c: _rows(c, _SPEEDS, [model_name, num_runs]))
    engine_s = sum(row["engine_s"] for row in rows)
    return sum(row["output_tokens"] for row in rows) / engine_s if engine_s else None


def past_results(store_path: Path, keys: Iterable[str]) -> dict[str, CachedResult]:
    """Return the cached results of these request keys, for commands that do not lock the store.

    Rows still in the journal are not seen. Raises StoreError, StoreBusyError.
    """
    lookup = ResultLookup(frozenset(keys))
    read_store(store_path, lambda connection: read_results(connection, lookup))
    return lookup.results()


def past_outputs(store_path: Path, jobs: Iterable[str], model_name: str) -> dict[str, list[int]]:
    """Return output lengths by job, for commands that do not lock the store.

    See `outputs.read_outputs`.

    Raises StoreError, StoreBusyError.
    """
    return read_store(store_path, lambda connection: read_outputs(connection, jobs, model_name))


def _check_schema(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    version = read_version(connection)
    check_version(version, path)
    if version == 0:
        raise StoreError(
            f"{path} is a DuckDB file, but no thothy-batch store", hint="name another file"
        )


def _read_run(connection: duckdb.DuckDBPyConnection, wanted: str | None) -> Fields:
    """Everything about an ended run comes from rows that no later run changes."""
    run = find_run(connection, wanted)
    run_id, version = run["run_id"], read_version(connection)
    jobs = _rows(
        connection, "SELECT * FROM job_stats WHERE run_id = ? ORDER BY priority DESC, job", [run_id]
    )
    has_flags = bool(jobs) and version >= _FLAGS_SINCE
    return {
        "run": run,
        "jobs": jobs or _rows(connection, _JOBS_SO_FAR, [run_id]),
        "failures": _failures(connection, run_id),
        "flags": _rows(connection, _FLAGS if has_flags else _FLAGS_SO_FAR, [run_id]),
        "steps": _rows(connection, _STEPS, [run_id, _MAX_POINTS, run_id]),
        "events": _rows(connection, _EVENTS, [run_id]) if version >= _EVENTS_SINCE else [],
        "nights": _rows(connection, _NIGHTS, {"run_id": run_id, "num_nights": _NUM_NIGHTS}),
    }


def find_run(connection: duckdb.DuckDBPyConnection, wanted: str | None) -> Fields:
    """Return the row of a run by its id or a prefix; None: the last run. Raises StoreError."""
    query = "SELECT * FROM runs {} ORDER BY started_at DESC, run_id DESC LIMIT 2"
    if wanted is None:
        found = _rows(connection, query.format(""))[:1]
    else:
        found = _rows(connection, query.format("WHERE starts_with(run_id, ?)"), [wanted])
    if not found:
        last = fetch_row(connection, "SELECT arg_max(run_id, started_at) FROM runs")
        name = last[0] if last else None
        hint = f"the last one is {name}" if name else "run a manifest first"
        what = "the store has no run yet" if wanted is None else f"the store has no run {wanted}"
        raise StoreError(what, hint=hint)
    if len(found) > 1 and found[0]["run_id"] != wanted:
        raise StoreError(f"several runs begin with {wanted}", hint="give more of the run_id")
    run = found[0]
    for name in _JSON_COLUMNS:
        run[name] = json.loads(run[name]) if run[name] else None
    return run


def _failures(connection: duckdb.DuckDBPyConnection, run_id: str) -> list[Fields]:
    codes: dict[str, Fields] = {}
    for row in _rows(connection, _FAILURES, {"run_id": run_id, "num_examples": _MAX_EXAMPLES}):
        entry = codes.setdefault(
            row["code"], {"code": row["code"], "num": row["num"], "examples": []}
        )
        entry["examples"].append({n: row[n] for n in ("job", "item_id", "variant", "message")})
    return sorted(codes.values(), key=lambda entry: -entry["num"])


def _rows(
    connection: duckdb.DuckDBPyConnection,
    query: str,
    parameters: list[object] | dict[str, object] | None = None,
) -> list[Fields]:
    cursor = connection.execute(query, parameters or [])
    names = [column[0] for column in cursor.description or ()]
    return [
        dict(zip(names, (_plain(v) for v in values), strict=True)) for values in cursor.fetchall()
    ]


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return value.astimezone().isoformat(timespec="milliseconds")
    return value


# During a run its job_stats are not written yet.
_JOBS_SO_FAR = """
SELECT i.job, coalesce(any_value(e.kind), '') AS kind, any_value(e.num_items) AS num_items,
    count(*) FILTER (i.status = 'done') AS num_done,
    count(*) FILTER (i.status = 'failed') AS num_failed,
    count(*) FILTER (i.status = 'reused') AS num_reused
FROM run_items i LEFT JOIN (
    SELECT run_id, job, any_value(kind) AS kind, max(num_items) AS num_items
    FROM job_entries GROUP BY run_id, job
) e ON e.run_id = i.run_id AND e.job = i.job
WHERE i.run_id = ? GROUP BY i.job ORDER BY i.job
"""

# The entries that failed in this run; an entry that failed earlier and was not retried keeps its
# earlier message. What later runs said of them is left out.
_FAILURES = """
WITH this AS (SELECT started_at, run_id FROM runs WHERE run_id = $run_id),
failed AS (
    SELECT i.job, i.item_id, i.variant, i.rowid AS place, coalesce(f.code, 'engine_error') AS code,
        coalesce(f.message, 'no message was recorded') AS message
    FROM run_items i LEFT JOIN (
        SELECT job, item_id, variant,
            last(code ORDER BY is_own, failed_at, place) AS code,
            last(message ORDER BY is_own, failed_at, place) AS message
        FROM (
            SELECT failures.*, failures.run_id = $run_id AS is_own, failures.rowid AS place
            FROM failures JOIN runs r ON r.run_id = failures.run_id, this
            WHERE (r.started_at, r.run_id) <= (this.started_at, this.run_id)
        ) GROUP BY job, item_id, variant
    ) f ON f.job = i.job AND f.item_id = i.item_id AND f.variant = i.variant
    WHERE i.run_id = $run_id AND i.status = 'failed'
)
SELECT *, count(*) OVER (PARTITION BY code) AS num FROM failed
QUALIFY row_number() OVER (PARTITION BY code ORDER BY place) <= $num_examples
ORDER BY code, place
"""

_FLAGS = """
SELECT job, unnest(map_keys(flags)) AS flag, unnest(map_values(flags)) AS num
FROM job_stats WHERE run_id = ? ORDER BY num DESC, job, flag
"""

_FLAGS_SO_FAR = """
SELECT job, flag, count(*) AS num FROM (
    SELECT i.job, unnest(a.flags) AS flag
    FROM run_items i JOIN artifacts a ON a.artifact_id = i.artifact_id
    WHERE i.run_id = ? AND i.status IN ('done', 'reused') AND a.verdict = 'flagged'
) GROUP BY job, flag ORDER BY num DESC, job, flag
"""

# Engine samples averaged into at most this many intervals of equal length. A sample's tokens were
# computed since the preceding sample.
_STEPS = """
WITH samples AS (
    SELECT *, at_s - lag(at_s, 1, 0) OVER (ORDER BY at_s) AS span_s
    FROM engine_steps WHERE run_id = ?
)
SELECT max(at_s) AS at_s, sum(decode_tokens) / nullif(sum(span_s), 0) AS decode_tokens_per_s,
    sum(prefill_tokens) / nullif(sum(span_s), 0) AS prefill_tokens_per_s,
    avg(num_running) AS num_running, max(blocks_used / nullif(blocks_total, 0)) AS kv_use,
    sum(num_preempted) AS num_preempted
FROM samples
GROUP BY floor(at_s * ? / (SELECT max(at_s) + 0.001 FROM engine_steps WHERE run_id = ?))
ORDER BY at_s
"""

_SPEEDS = """
SELECT output_tokens, engine_s FROM runs
WHERE model ->> 'name' = ? AND engine_s >= 1 AND output_tokens > 0
ORDER BY started_at DESC LIMIT ?
"""

_EVENTS = "SELECT * EXCLUDE run_id FROM engine_events WHERE run_id = ? ORDER BY happened_at, rowid"

# The run, and those of the same manifest before it.
_NIGHTS = """
WITH this AS (SELECT name, started_at, run_id FROM runs WHERE run_id = $run_id)
SELECT nights.* FROM nights, this
WHERE nights.name IS NOT DISTINCT FROM this.name
    AND (nights.started_at, nights.run_id) <= (this.started_at, this.run_id)
ORDER BY nights.started_at DESC, nights.run_id DESC LIMIT $num_nights
"""
