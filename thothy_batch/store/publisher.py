"""Publishes closed journal segments to DuckDB, each exactly once, and removes them."""

import logging
import time
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb

from thothy_batch.errors import StoreBusyError
from thothy_batch.store.database.database import fetch_row, open_database
from thothy_batch.store.database.merge import Merger
from thothy_batch.store.database.run_summary import mark_killed_runs
from thothy_batch.store.database.schema import ensure_file, migrate
from thothy_batch.store.files import storage_error
from thothy_batch.store.journal.journal import Journal
from thothy_batch.store.journal.segment import read_segment, segment_id
from thothy_batch.store.queries.result_index import ResultIndex, read_state
from thothy_batch.testing import faults

_log = logging.getLogger(__name__)
_PUBLISH_EVERY_S = 5.0
_PUBLISH_SHARE = 50  # merges may take one part in this many of the run's time, unless ...
_MAX_PAUSE_S = 30.0  # ... readers have waited this long for the next one
_MAX_BACK_OFF_S = 30.0
_REMEMBERED_DAYS = 30  # a backup of the journal may be restored meanwhile
_BACKLOG_PAUSE_S = 1.0  # between merges of a backlog, so that the run continues


class Publisher:
    """Merges when a merge is due and the file is free. The caller holds the store's lock."""

    def __init__(self, path: Path, journal: Journal, index: ResultIndex) -> None:
        self._path = path
        self._journal = journal
        self._index = index
        self._next = 0.0  # time.monotonic() of the next due merge
        self._back_off_s = 1.0
        self.killed: list[str] = []  # ids of dead runs that were marked killed

    @property
    def due(self) -> bool:
        return time.monotonic() >= self._next

    def hurry(self) -> None:
        """Make the next merge due now."""
        self._next = 0.0

    def publish(self, *, alive: str, max_segments: int | None = None) -> bool:
        """Merge committed segments; return True if all of them are in the database.

        Returns False while another program holds the file, and if `max_segments` left some for
        the next merge. `alive` is the current run ("": none); every other running run is marked
        killed. Raises StoreError if the database cannot take the rows; the segments then stay.
        """
        begin = time.monotonic()
        try:
            faults.at("publish.begin")
            ensure_file(self._path)
            with open_database(self._path) as connection:
                migrate(connection, self._path)
                self._journal.rotate(last=not alive)
                waiting = self._journal.closed_segments()
                segments = waiting[:max_segments]
                self._merge(connection, segments, alive, last=segments == waiting)
        except StoreBusyError as busy:
            _log.info("published later: %s", busy)
            self._next = time.monotonic() + self._back_off_s
            self._back_off_s = min(2 * self._back_off_s, _MAX_BACK_OFF_S)
            return False
        # Only now is the database closed completely and the index equal to it.
        for path in segments:
            _remove(path)
        end = time.monotonic()
        self._back_off_s = 1.0
        pause_s = max(_PUBLISH_EVERY_S, _PUBLISH_SHARE * (end - begin))
        self._next = end + min(pause_s, _MAX_PAUSE_S)
        if segments != waiting:
            self._next = end + _BACKLOG_PAUSE_S
        return segments == waiting

    def _merge(
        self,
        connection: duckdb.DuckDBPyConnection,
        segments: Sequence[Path],
        alive: str,
        *,
        last: bool,
    ) -> None:
        mirrored = self._index.mirrors(read_state(connection))
        merger = Merger(connection)
        for path in segments:
            _merge_segment(connection, merger, path)
        if last:  # a run with unmerged rows is not counted yet
            connection.begin()
            self.killed += mark_killed_runs(connection, alive=alive)
            _forget_segments(connection, segments)
            connection.commit()
        state = read_state(connection)
        if not mirrored:
            self._index.rebuild(connection, state)
        elif merger.artifact_ids or merger.failures or not self._index.mirrors(state):
            self._index.extend(connection, state, merger.artifact_ids, merger.failures)


def _merge_segment(connection: duckdb.DuckDBPyConnection, merger: Merger, path: Path) -> None:
    """Merge a segment's rows and the note of it in one transaction."""
    name = segment_id(path)
    known = "SELECT 1 FROM merged_segments WHERE segment_id = ?"
    if fetch_row(connection, known, [name]):
        return
    try:
        records = read_segment(path).records
    except OSError as error:
        raise storage_error(error, "cannot read the journal", path) from error
    connection.begin()
    merger.apply(records)
    connection.execute("INSERT INTO merged_segments VALUES (?, now())", [name])
    connection.execute(
        "UPDATE store_info SET generation = generation + 1, merge_id = ?", [uuid.uuid4().hex]
    )
    faults.at("publish.commit")
    connection.commit()
    faults.at("publish.committed")


def _forget_segments(connection: duckdb.DuckDBPyConnection, there: Sequence[Path]) -> None:
    """Delete the notes of segments merged long ago and removed; a run leaves thousands."""
    limit = datetime.now(UTC) - timedelta(days=_REMEMBERED_DAYS)
    names = [segment_id(path) for path in there]
    connection.execute(
        "DELETE FROM merged_segments WHERE merged_at < ? AND segment_id NOT IN "
        "(SELECT unnest(?::VARCHAR[]))",
        [limit, names],
    )


def _remove(path: Path) -> None:
    try:
        faults.at("publish.remove")
        path.unlink(missing_ok=True)
    except OSError as error:
        raise storage_error(error, "cannot remove the merged segment", path) from error
