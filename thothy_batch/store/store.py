"""The store as a run sees it: rows go in, nothing committed is lost, readers are never waited for.

Rows enter the journal and are safe within a second. Every few seconds the journal is merged into
DuckDB; when another program holds the file, the rows stay where they are and are merged later,
by this run or by the next command.
"""

import logging
import os
import socket
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from thothy_batch.errors import LockedError, LockHolder, StoreBusyError, StoreError
from thothy_batch.records import EngineTotals, EntryKey
from thothy_batch.store import columns as col
from thothy_batch.store.database.database import open_copy, open_database
from thothy_batch.store.database.merge import BEGIN_RUN, COPIES, END_RUN, TABLES, UPDATE_RUN
from thothy_batch.store.files import (
    check_path,
    journal_folder,
    lock_path,
    real_path,
    remove_temporary,
)
from thothy_batch.store.journal.journal import Journal
from thothy_batch.store.journal.open_entries import open_rows
from thothy_batch.store.journal.segment import Record, Row, segment_paths
from thothy_batch.store.lock import FileLock
from thothy_batch.store.publisher import Publisher
from thothy_batch.store.queries.outputs import read_outputs
from thothy_batch.store.queries.result_index import AnswerIndex
from thothy_batch.store.queries.result_lookup import (
    ARTIFACT_FIELDS,
    FAILURE_FIELDS,
    CachedResult,
    ResultLookup,
    read_answers,
    slim,
)

_log = logging.getLogger(__name__)
_COMMIT_AFTER_S = 0.5  # a caller that ticks twice a second syncs every row within one
_SEGMENTS_PER_TICK = 2  # what a reader kept waiting all night is not merged in one go
_CLOSE_PATIENCE_S = 1.0  # for a reader that looks in for a moment
_ANSWERING = {
    "artifacts": ARTIFACT_FIELDS,
    COPIES: ARTIFACT_FIELDS,
    "failures": FAILURE_FIELDS,
}


@dataclass(slots=True)
class Recovery:
    """What `open` found of runs that died."""

    cut_bytes: int = 0  # unfinished writes at the end of segments
    damaged_bytes: int = 0  # unreadable places between good records
    num_records: int = 0  # good records that were not published yet
    killed_runs: list[str] = field(default_factory=list)


class Store:
    """A store opened for a run. The caller holds its lock (`files.lock_path`) until `close`."""

    def __init__(self, path: Path) -> None:
        """Use `Store.open`."""
        self.path = path
        folder = journal_folder(path)
        self.recovered = Recovery()
        self._journal = Journal(folder)
        self._index = AnswerIndex(folder)
        self._publisher = Publisher(path, self._journal, self._index)
        self._leftovers: list[Record] = []  # artifacts and failures that wait since before `open`
        self._run_id = ""
        self._next_totals = 0.0
        self._unpublished = True
        self._closed = False

    @classmethod
    def open(cls, path: Path) -> "Store":
        """Opens the store, making it where there is none, and publishes what dead runs left.

        A reader that holds the file changes nothing: the rest is then published later. Raises
        StoreError for a path that cannot be a store, a newer schema, a full or read-only disk.
        """
        path = real_path(path)
        check_path(path)
        store = cls(path)
        remove_temporary(journal_folder(path))
        leftovers: list[Record] = []
        for _, content in store._journal.recover():
            store.recovered.cut_bytes += content.tail_bytes
            store.recovered.damaged_bytes += content.damaged_bytes
            store.recovered.num_records += len(content.records)
            leftovers += [
                (t, slim(_ANSWERING[t], r)) for t, r in content.records if t in _ANSWERING
            ]
        _log.info("opened %s: %s", path, store.recovered)
        if not store.publish():
            store._leftovers = leftovers
        store.recovered.killed_runs = store._publisher.buried
        return store

    def begin_run(self, row: Mapping[str, object], entries: Iterable[EntryKey] = ()) -> None:
        """Starts a run: columns of `runs`, and `jobs`: mappings of job, kind, priority, num_items.

        `entries`: all of the run, job by job; if it is killed, those without an end are known by
        them, and entries of a job that were never written count as not run.
        Durable on return: from here on the run is in the history, however it ends.
        """
        values = dict(row)
        jobs = values.pop("jobs", None)
        values.setdefault("started_at", time.time())
        cells = col.clean_row(col.RUNS, values)
        self._run_id = str(cells["run_id"])
        for part in open_rows(entries):  # before the run itself: no run without its entries
            self._append("open_entries", self._cells("open_entries", part))
        self._append(BEGIN_RUN, cells)
        for job in jobs or ():  # type: ignore[attr-defined]
            self._append("job_entries", self._cells("job_entries", job))
        self._journal.commit()
        self._publisher.hurry()

    def update_run(self, row: Mapping[str, object]) -> None:
        """Columns of `runs` learned since, such as engine, model, versions, engine_ready_at."""
        values = {**row, "run_id": self._run_id, "last_seen_at": time.time()}
        self._append(UPDATE_RUN, col.clean_row(col.RUNS, values))

    def record_predictions(self, engine_s: Mapping[str, float]) -> None:
        """How much of the run's engine time each job was predicted to take, by the job's name."""
        for job, seconds in engine_s.items():
            row = {"job": job, "predicted_s": seconds}
            self._append("job_entries", self._cells("job_entries", row))

    def record_totals(self, totals: EngineTotals) -> None:
        """The engine's sums so far, so that a killed run has them. Kept about once a second."""
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
        """A row of artifacts, run_items, failures, engine_steps or engine_events.

        run_id, variant and the time are filled in where left out. An artifact replaces the one of
        the same artifact_id. KeyError for a column that the table does not have.
        """
        self._append(table, self._cells(table, row))

    def add_copy(self, row: Mapping[str, object], reused_from: str) -> None:
        """An artifact with the content of another one, made earlier in this run or before it.

        `row` needs artifact_id, job, kind, item_id, variant, request_key; what it leaves out of
        text, data, verdict, flags, token counts and the like comes from `reused_from` at the
        merge.
        """
        cells = self._cells("artifacts", {**row, "reused_from": reused_from})
        self._append(COPIES, cells)

    def end_run(self, row: Mapping[str, object]) -> bool:
        """Ends the run with its scalars: status, stop_reason, exit_code, engine_s, wall_s, load_s,
        wasted_tokens, computed_prompt_tokens, roofline_fraction. Counts, rates and job_stats are
        made from its rows.

        Durable on return; True when it is published too.
        """
        values: dict[str, object] = {"finished_at": time.time(), **row, "run_id": self._run_id}
        values["last_seen_at"] = values["finished_at"]
        self._append(END_RUN, col.clean_row(col.RUNS, values))
        self._journal.commit()
        self._run_id = ""
        return self.publish()

    def tick(self) -> None:
        """Call at least twice a second: syncs rows within a second, publishes about every five."""
        oldest = self._journal.oldest_unsynced
        if oldest is not None and time.monotonic() - oldest >= _COMMIT_AFTER_S:
            self._journal.commit()
        if self._unpublished and self._publisher.due:
            self._publish(max_segments=_SEGMENTS_PER_TICK)

    def publish(self) -> bool:
        """Merges the journal into DuckDB now; False when another program holds the file.

        Raises StoreError where the database cannot take the rows; the journal then keeps them.
        """
        return self._publish()

    def _publish(self, max_segments: int | None = None) -> bool:
        self._journal.commit()
        published = self._publisher.publish(alive=self._run_id, max_segments=max_segments)
        if published:
            self._unpublished = False
            self._leftovers.clear()
        return published

    def answers(self, keys: Iterable[str]) -> dict[str, CachedResult]:
        """What was answered under each of these request keys before this run.

        Complete also while a reader holds the database: then from the index, and where there is
        none from a copy of the file. Ask for many keys at once.
        """
        book = ResultLookup(frozenset(keys) - {""})
        try:
            with open_database(self.path, read_only=True) as connection:
                read_answers(connection, book)
        except StoreBusyError:
            if not self._index.read(book):  # a store that came without its journal folder
                with open_copy(self.path) as connection:
                    read_answers(connection, book)
        for table, row in self._leftovers:
            (book.add_failure if table == "failures" else book.add_artifact)(row)
        return book.answers()

    def past_outputs(self, jobs: Iterable[str], model_name: str) -> dict[str, list[int]]:
        """See `outputs.read_outputs`. What waits in the journal is not seen; nothing is where a
        reader holds the database: it is wanted for estimates, and those can do without."""
        try:
            with open_database(self.path, read_only=True) as connection:
                return read_outputs(connection, jobs, model_name)
        except StoreBusyError:
            return {}

    def close(self) -> None:
        """Publishes what is left, waiting a moment for a reader to let go, and closes."""
        if self._closed:
            return
        self._closed = True
        self._run_id = ""
        try:
            deadline = time.monotonic() + _CLOSE_PATIENCE_S
            while self._unpublished and not self.publish() and time.monotonic() < deadline:
                time.sleep(0.1)
        finally:
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


def publish_if_free(path: Path) -> bool:
    """Publishes what a dead run left, for commands that only read; True when nothing is left.

    Does nothing while a run holds the store, or where this user may not write.
    """
    path = real_path(path)
    folder = journal_folder(path)
    if not folder.is_dir() or not segment_paths(folder):
        return True
    since = datetime.now().astimezone().isoformat(timespec="seconds")
    holder = LockHolder(pid=os.getpid(), host=socket.gethostname(), since=since)
    lock = FileLock(lock_path(path))
    try:
        lock.acquire(holder, patience_s=0.0)
    except (LockedError, StoreError):
        return False
    try:
        store = Store.open(path)
        store.close()
    finally:
        lock.release()
    return not segment_paths(folder)
