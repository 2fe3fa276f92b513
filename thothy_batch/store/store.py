"""The store that a run writes to: nothing committed is lost, and no reader blocks it.

Rows enter the journal and are durable within a second. Every few seconds the journal is merged into
DuckDB. While another program holds the file, the rows stay in the journal and are merged later, by
this run or by the next command.
"""

import logging
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from thothy_batch.errors import StoreBusyError
from thothy_batch.records import EngineTotals, EntryKey
from thothy_batch.store import columns as col
from thothy_batch.store.database.database import open_database
from thothy_batch.store.database.merge import BEGIN_RUN, COPIES, END_RUN, TABLES, UPDATE_RUN
from thothy_batch.store.files import check_path, journal_folder, real_path, remove_temporary
from thothy_batch.store.journal.journal import Journal
from thothy_batch.store.journal.open_entries import open_rows
from thothy_batch.store.journal.reserve import Reserve
from thothy_batch.store.journal.segment import Record, Row
from thothy_batch.store.publisher import Publisher
from thothy_batch.store.queries.outputs import count_without_token_ids, read_outputs
from thothy_batch.store.queries.result_index import ResultIndex, read_database
from thothy_batch.store.queries.result_lookup import CachedResult, ResultLookup
from thothy_batch.store.recovery import Recovery, recover

_log = logging.getLogger(__name__)
_COMMIT_AFTER_S = 0.5  # a caller that ticks twice a second syncs every row within a second
_SEGMENTS_PER_TICK = 2  # a large backlog is not merged at once
_CLOSE_PATIENCE_S = 1.0  # for a reader that opens the file briefly


class Store:
    """A store opened for a run. The caller holds its lock (`files.lock_path`) until `close`."""

    def __init__(self, path: Path) -> None:
        """Use `Store.open`."""
        self.path = path
        folder = journal_folder(path)
        self.recovered = Recovery()
        self._journal = Journal(folder)
        self._reserve = Reserve(folder)
        self._index = ResultIndex(folder)
        self._publisher = Publisher(path, self._journal, self._index)
        self._leftovers: list[Record] = []  # artifacts and failures unpublished since before `open`
        self._run_id = ""
        self._next_totals = 0.0
        self._unpublished = True
        self._closed = False
        self._has_failed = False  # it could not be written: what waits is left to the next command

    @classmethod
    def open(cls, path: Path) -> "Store":
        """Open the store, creating it if missing, and publish what dead runs left.

        If a reader holds the file, the rows are published later. Raises StoreError for a path that
        cannot be a store, a newer schema, and a full or read-only disk.
        """
        path = real_path(path)
        check_path(path)
        store = cls(path)
        remove_temporary(journal_folder(path))
        store.recovered, leftovers = recover(store._journal)
        found = store.recovered
        _log.info(
            "opened %s: %d unpublished records, %d bytes cut, %d bytes damaged",
            *(path, found.num_records, found.cut_bytes, found.damaged_bytes),
        )
        if not store.publish():
            store._leftovers = leftovers
        store.recovered.killed_runs = store._publisher.killed
        return store

    def begin_run(self, row: Mapping[str, object], entries: Iterable[EntryKey] = ()) -> None:
        """Start a run: columns of `runs`, and `jobs`: mappings of job, kind, priority, num_items.

        `entries` as in `record_entries`, where they are known already. Durable on return: from then
        on the run is in the history, however it ends.
        """
        values = dict(row)
        jobs = values.pop("jobs", None) or ()
        cells = _begin_cells(values)
        self._run_id = str(cells["run_id"])
        self._reserve.take()
        self._append(BEGIN_RUN, cells)
        self.record_entries(jobs, entries)  # type: ignore[arg-type]
        self._publisher.hurry()

    def record_entries(
        self, jobs: Iterable[Mapping[str, object]], entries: Iterable[EntryKey]
    ) -> None:
        """Record the jobs as `begin_run` does, and all entries of the run, job by job.

        The entries name the unfinished ones after a kill; those without a row count as not run.
        Durable on return.
        """
        for part in open_rows(entries):  # before their number, so that no counted entry lacks a row
            self._append("open_entries", self._cells("open_entries", part))
        for job in jobs:
            self._append("job_entries", self._cells("job_entries", job))
        self._journal.commit()

    @classmethod
    def record_ended(cls, path: Path, row: Mapping[str, object], end: Mapping[str, object]) -> None:
        """Record a run that ended while its store was being opened: `row` as for `begin_run`, `end`
        as for `end_run`.

        Durable on return, and published unless much else has to be published first. Raises
        StoreError.
        """
        store, values = cls(real_path(path)), dict(row)
        jobs = values.pop("jobs", None) or ()
        try:
            store._run_id = str(values["run_id"])
            store._append(BEGIN_RUN, _begin_cells(values))
            store.record_entries(jobs, ())  # type: ignore[arg-type]
            store._append(END_RUN, store._end_cells(end))
            store._run_id = ""
            store._publish(max_segments=_SEGMENTS_PER_TICK)
        finally:
            store._journal.close()

    def update_run(self, row: Mapping[str, object]) -> None:
        """Update columns of `runs`, such as engine, model, versions, engine_ready_at."""
        values = {**row, "run_id": self._run_id, "last_seen_at": time.time()}
        self._append(UPDATE_RUN, col.clean_row(col.RUNS, values))

    def record_predictions(self, engine_s: Mapping[str, float]) -> None:
        """Record the engine time predicted for each job, by name."""
        for job, seconds in engine_s.items():
            row = {"job": job, "predicted_s": seconds}
            self._append("job_entries", self._cells("job_entries", row))

    def record_totals(self, totals: EngineTotals) -> None:
        """Record the engine's totals so far, about once a second, so that a killed run has them."""
        now = time.monotonic()
        if now < self._next_totals:
            return
        self._next_totals = now + 1.0
        self.update_run(
            {
                "engine_s": totals.engine_s,
                "wasted_tokens": totals.wasted_tokens,
                "computed_tokens": totals.prefill_tokens + totals.output_tokens,
                "computed_prompt_tokens": totals.prefill_tokens - totals.repeated_prompt_tokens,
            }
        )

    def add(self, table: str, row: Mapping[str, object]) -> None:
        """Add a row of artifacts, run_items, failures, engine_steps or engine_events.

        run_id, variant and the time are filled in if missing. An artifact replaces the one with
        the same artifact_id. Raises KeyError for a column that the table does not have.
        """
        self._append(table, self._cells(table, row))

    def add_copy(self, row: Mapping[str, object], reused_from: str) -> None:
        """Add an artifact with the content of an earlier one, of this run or an earlier run.

        `row` needs artifact_id, job, kind, item_id, variant, request_key; missing columns (text,
        data, verdict, flags, token counts, ...) are taken from `reused_from` at the merge.
        """
        cells = self._cells("artifacts", {**row, "reused_from": reused_from})
        self._append(COPIES, cells)

    def end_run(self, row: Mapping[str, object]) -> bool:
        """End the run with its scalar columns, from status to roofline_fraction; return True if it
        is published too. Counts, rates and job_stats come from its rows. Durable on return."""
        self._append(END_RUN, self._end_cells(row))
        self._journal.commit()
        self._run_id = ""
        return self.publish()

    def make_room(self) -> list[Record]:
        """Give the reserve back and make durable what waits; return the rows for which there is no
        room, which are dropped: their entries count as not run."""
        self._has_failed = True  # the next command publishes what is there
        self._reserve.release()
        return self._journal.salvage()

    def fail_run(self, row: Mapping[str, object]) -> None:
        """End the run as failed by its store, after `make_room`. `row` has its run_id, too.

        Raises StoreError if even the journal takes nothing.
        """
        self._journal.append_last(END_RUN, self._end_cells(row))
        self._run_id = ""

    def _end_cells(self, row: Mapping[str, object]) -> Row:
        values: dict[str, object] = {"finished_at": time.time(), "run_id": self._run_id, **row}
        values["last_seen_at"] = values["finished_at"]
        return col.clean_row(col.RUNS, values)

    def tick(self) -> None:
        """Sync rows within a second and publish about every five. Call at least twice a second."""
        oldest = self._journal.oldest_unsynced
        if oldest is not None and time.monotonic() - oldest >= _COMMIT_AFTER_S:
            self._journal.commit()
        if self._unpublished and self._publisher.due:
            self._publish(max_segments=_SEGMENTS_PER_TICK)

    def publish(self) -> bool:
        """Merge the journal into DuckDB now; return False if another program holds the file.

        Raises StoreError if the database cannot take the rows; the journal then keeps them.
        """
        return self._publish()

    def _publish(self, max_segments: int | None = None) -> bool:
        self._journal.commit()
        published = self._publisher.publish(alive=self._run_id, max_segments=max_segments)
        if published:
            self._unpublished = False
            self._leftovers.clear()
        return published

    def cached_results(self, keys: Iterable[str]) -> dict[str, CachedResult]:
        """Return the cached results of these request keys from before this run.

        Complete even while a reader holds the database. Ask for many keys at once.
        """
        lookup = ResultLookup(frozenset(keys) - {""})
        self._read(lookup)
        return lookup.results()

    def last_failures(self, entries: Iterable[EntryKey]) -> dict[EntryKey, tuple[str, str]]:
        """Return code and message of these entries' last failures before this run; complete as
        `cached_results` is."""
        lookup = ResultLookup(frozenset(), frozenset(entries))
        if lookup.entries:
            self._read(lookup)
        return lookup.last_failures()

    def _read(self, lookup: ResultLookup) -> None:
        read_database(self.path, self._index, lookup)
        for table, row in self._leftovers:
            (lookup.add_failure if table == "failures" else lookup.add_artifact)(row)

    def past_outputs(self, jobs: Iterable[str], model_name: str) -> dict[str, list[int]]:
        """Return output lengths by job; see `outputs.read_outputs`.

        Rows in the journal are not seen, and the result is empty while a reader holds the
        database: estimates can do without.
        """
        try:
            with open_database(self.path, read_only=True) as connection:
                return read_outputs(connection, jobs, model_name)
        except StoreBusyError:
            return {}

    def num_without_token_ids(self, run_id: str, jobs: Iterable[str]) -> int:
        """Return the number of reused artifacts without ids; 0 while the database is held."""
        try:
            with open_database(self.path, read_only=True) as connection:
                return count_without_token_ids(connection, run_id, jobs)
        except StoreBusyError:
            return 0

    def close(self) -> None:
        """Publish the remaining rows, waiting briefly for a reader, and close."""
        if self._closed:
            return
        self._closed = True
        self._run_id = ""
        try:
            deadline = time.monotonic() + _CLOSE_PATIENCE_S
            while self._unpublished and not self._has_failed and not self.publish():
                if time.monotonic() >= deadline:
                    break
                time.sleep(0.1)
        finally:
            self._reserve.release()
            self._journal.close()

    def _append(self, table: str, cells: Row) -> None:
        self._unpublished = True
        self._journal.append(table, cells)

    def _cells(self, table: str, row: Mapping[str, object]) -> Row:
        cells = col.clean_row(TABLES[table], row)
        cells.setdefault("run_id", self._run_id)
        if "variant" in TABLES[table]:
            cells.setdefault("variant", "")
        if table == "artifacts":
            cells.setdefault("created_at", col.now_us())
        elif table == "engine_events":
            cells.setdefault("happened_at", col.now_us())
        elif table == "failures":
            cells.setdefault("failed_at", col.now_us())
            cells.setdefault("message", "no message was given")
        return cells


def _begin_cells(values: dict[str, object]) -> Row:
    values.setdefault("started_at", time.time())
    return col.clean_row(col.RUNS, values)
