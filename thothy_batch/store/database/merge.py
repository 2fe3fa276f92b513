"""Merges journal records into table rows, in the order in which they were written."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

import duckdb

from thothy_batch.store import columns as col
from thothy_batch.store.database.run_summary import count_run, mark_killed_runs
from thothy_batch.store.journal import open_entries
from thothy_batch.store.journal.segment import Record, Row

# Journal records that are not rows of the table of the same name.
BEGIN_RUN, UPDATE_RUN, END_RUN, COPIES = "begin_run", "update_run", "end_run", "copies"

TABLES: dict[str, col.Columns] = {
    "artifacts": col.ARTIFACTS,
    "run_items": col.RUN_ITEMS,
    "failures": col.FAILURES,
    "engine_steps": col.ENGINE_STEPS,
    "engine_events": col.ENGINE_EVENTS,
    "job_entries": col.JOB_ENTRIES,
    "open_entries": col.OPEN_ENTRIES,
}
# Tables whose rows are inserted unchanged.
_PLAIN = (
    *("failures", "run_items", "engine_steps", "engine_events"),
    *("job_entries", "open_entries"),
)
# Columns that a copy takes from its source unless its own row has them. Times are not copied,
# because no engine time was spent.
_COPIED = (
    *("text", "data", "verdict", "flags", "finish_reason", "prompt_tokens"),
    *("cached_prompt_tokens", "output_tokens", "output_token_ids", "attempt", "request_key"),
    *("model", "seed", "kind", "reasoning"),
)


class Merger:
    """Applies records within the caller's transaction and keeps the rows for the result index."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection
        self._rows: dict[str, list[Row]] = defaultdict(list)
        self._updates: dict[str, Row] = {}
        self.artifact_ids: list[str] = []
        self.failures: list[Row] = []

    def apply(self, records: Iterable[Record]) -> None:
        """Insert rows in bulk. A run is counted at its end, before rows of a later run follow."""
        for table, row in records:
            if table == BEGIN_RUN:
                self._flush()
                mark_killed_runs(self._connection, alive=str(row["run_id"]))
                self._insert("runs", col.RUNS, [{"status": "running", **row}], replace=True)
            elif table in (UPDATE_RUN, END_RUN):
                self._updates.setdefault(str(row["run_id"]), {}).update(row)
                if table == END_RUN:
                    self._flush()
                    self._end_run(row)
            else:
                self._rows[table].append(row)
        self._flush()

    def _end_run(self, row: Row) -> None:
        """Count a run. One whose store failed could not record the entries that were left: the
        reason is that of any failure, the run's own stop_reason tells which."""
        run_id = str(row["run_id"])
        if row.get("status") == "failed":
            open_entries.insert_not_run(self._connection, run_id, "engine_failed")
        count_run(self._connection, run_id)
        open_entries.keep_only(self._connection, "")

    def _flush(self) -> None:
        rows, self._rows = self._rows, defaultdict(list)
        updates, self._updates = self._updates, {}
        artifacts = _last_of_each(rows["artifacts"])
        self._insert("artifacts", col.ARTIFACTS, artifacts, replace=True)
        self._copy(_last_of_each(rows[COPIES]))
        for table in _PLAIN:
            self._insert(table, TABLES[table], rows[table])
        self._update_runs(updates)
        self.artifact_ids += [str(row["artifact_id"]) for row in artifacts + rows[COPIES]]
        self.failures += rows["failures"]

    def _insert(
        self, table: str, columns: col.Columns, rows: Sequence[Row], *, replace: bool = False
    ) -> None:
        if not rows:
            return
        verb = "INSERT OR REPLACE" if replace else "INSERT"
        self._execute(f"{verb} INTO {table} BY NAME SELECT * FROM batch", columns, rows)

    def _copy(self, rows: Sequence[Row]) -> None:
        """Return artifacts that copy another one's content; those without a source are dropped."""
        if not rows:
            return
        sources = {str(row["artifact_id"]): str(row["reused_from"]) for row in rows}
        resolved = [{**row, "source_id": _root(sources, str(row["artifact_id"]))} for row in rows]
        content = ", ".join(f"coalesce(b.{name}, s.{name}) AS {name}" for name in _COPIED)
        kept = ", ".join(f"b.{name}" for name in col.ARTIFACTS if name not in _COPIED)
        self._execute(
            f"INSERT OR REPLACE INTO artifacts BY NAME SELECT {kept}, {content} FROM batch b "
            "JOIN artifacts s ON s.artifact_id = b.source_id WHERE b.artifact_id <> b.source_id",
            {**col.ARTIFACTS, "source_id": col.TEXT},
            resolved,
        )

    def _update_runs(self, updates: dict[str, Row]) -> None:
        for run_id, row in updates.items():
            names = [name for name in row if name != "run_id"]
            changes = ", ".join(f"{name} = b.{name}" for name in names)
            if changes:
                columns = {name: col.RUNS[name] for name in ("run_id", *names)}
                self._execute(
                    f"UPDATE runs SET {changes} FROM batch b WHERE runs.run_id = b.run_id",
                    columns,
                    [{**row, "run_id": run_id}],
                )

    def _execute(self, statement: str, columns: col.Columns, rows: Sequence[Row]) -> None:
        self._connection.register("batch", col.arrow_table(columns, rows))
        try:
            self._connection.execute(statement)
        finally:
            self._connection.unregister("batch")


def _last_of_each(rows: Sequence[Row]) -> list[Row]:
    """Keep the last row per artifact_id: one statement may not replace a key twice."""
    return list({row["artifact_id"]: row for row in rows}.values())


def _root(sources: dict[str, str], artifact_id: str) -> str:
    """Return the artifact at the end of a chain of copies made in one batch."""
    seen = {artifact_id}
    while (artifact_id := sources[artifact_id]) in sources and artifact_id not in seen:
        seen.add(artifact_id)
    return artifact_id
