"""The result index: a copy of the cached results, for times when a reader locks the database.

    answers.jsonl   one line per artifact or failure, in the order of merging
    answers.json    how many bytes of it count, and which state of which database they mirror

It is used only while the database cannot be read. Otherwise the two are compared: after another
store, another merge, or other row counts (a manual edit) the index is rebuilt.
"""

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import duckdb
import pyarrow as pa

from thothy_batch.errors import StoreBusyError
from thothy_batch.process import replace_file, sync_folder
from thothy_batch.store.database.database import fetch_row, open_copy, open_database
from thothy_batch.store.files import storage_error
from thothy_batch.store.journal.segment import Row
from thothy_batch.store.queries.result_lookup import (
    ARTIFACT_FIELDS,
    FAILURE_FIELDS,
    ResultLookup,
    read_results,
    slim,
)
from thothy_batch.testing import faults


@dataclass(frozen=True, slots=True)
class DatabaseState:
    """One state of one database file; every merge draws a new `merge_id`."""

    store_id: str
    merge_id: str
    num_artifacts: int
    num_failures: int


def read_state(connection: duckdb.DuckDBPyConnection) -> DatabaseState:
    """Return the state of an open database. DuckDB keeps the counts, so no scan is needed."""
    row = fetch_row(
        connection,
        "SELECT store_id, merge_id, (SELECT count(*) FROM artifacts), "
        "(SELECT count(*) FROM failures) FROM store_info",
    )
    assert row is not None
    return DatabaseState(*row)


class ResultIndex:
    """The two index files in a journal folder. The caller holds the store's lock."""

    def __init__(self, folder: Path) -> None:
        self._lines = folder / "answers.jsonl"
        self._head = folder / "answers.json"

    def mirrors(self, state: DatabaseState) -> bool:
        """True if the index equals exactly this state."""
        return self._read_head() == (state, self._valid_length())

    def extend(
        self,
        connection: duckdb.DuckDBPyConnection,
        state: DatabaseState,
        artifact_ids: Iterable[str],
        failures: Iterable[Row],
    ) -> None:
        """Add the results of a merge; `state` is the database's state after it."""
        ids = pa.table({"artifact_id": pa.array(artifact_ids, pa.string())})
        connection.register("merged", ids)
        try:
            source = "artifacts SEMI JOIN merged USING (artifact_id)"
            lines = list(_lines(connection, _artifact_lines(source)))
        finally:
            connection.unregister("merged")
        encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
        lines += [encode(["f", slim(FAILURE_FIELDS, row)]).encode() + b"\n" for row in failures]
        self._write(state, lines, keep=self._valid_length())

    def rebuild(self, connection: duckdb.DuckDBPyConnection, state: DatabaseState) -> None:
        """Rebuild the index from the database; it counts only once it is complete."""
        try:
            self._head.unlink(missing_ok=True)
        except OSError as error:
            raise storage_error(error, "cannot remove the result index", self._head) from error
        self._write(state, _lines(connection, _artifact_lines("artifacts")), keep=0)
        failures = _lines(connection, _FAILURE_LINES)
        self._write(state, failures, keep=self._valid_length())

    def read(self, lookup: ResultLookup) -> bool:
        """Add the indexed results to a lookup; return False without a readable index."""
        length = self._valid_length()
        if self._read_head() is None:
            return False
        try:
            with open(self._lines, "rb") as file:
                for line in file.read(length).splitlines():
                    mark, row = json.loads(line)
                    (lookup.add_artifact if mark == "a" else lookup.add_failure)(row)
        except (OSError, ValueError):
            return False
        return True

    def _read_head(self) -> tuple[DatabaseState, int] | None:
        try:
            head = json.loads(self._head.read_bytes())
            length = int(head.pop("length"))
            if self._lines.stat().st_size < length:
                return None
            return DatabaseState(**head), length
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None

    def _valid_length(self) -> int:
        head = self._read_head()
        return head[1] if head else 0

    def _write(self, state: DatabaseState, lines: Iterable[bytes], *, keep: int) -> None:
        """Write lines after the first `keep` bytes, then commit them."""
        try:
            with open(self._lines, "r+b" if self._lines.exists() else "w+b") as file:
                file.truncate(keep)
                file.seek(keep)
                file.writelines(lines)
                file.flush()
                faults.at("index.sync")
                os.fsync(file.fileno())
                length = file.tell()
            sync_folder(self._lines.parent)
            head = {**asdict(state), "length": length}
            replace_file(self._head, json.dumps(head).encode())
        except OSError as error:
            raise storage_error(error, "cannot write the result index", self._lines) from error


def read_database(path: Path, index: ResultIndex, lookup: ResultLookup) -> None:
    """Add the store's published rows to a lookup, by the index while a reader holds the file."""
    try:
        with open_database(path, read_only=True) as connection:
            read_results(connection, lookup)
    except StoreBusyError:
        if not index.read(lookup):  # a store without its journal folder
            with open_copy(path) as connection:
                read_results(connection, lookup)


def _lines(connection: duckdb.DuckDBPyConnection, query: str) -> Iterator[bytes]:
    """Yield the query's only column, one JSON text per row, as lines."""
    cursor = connection.execute(query)
    while batch := cursor.fetchmany(10_000):
        for (text,) in batch:
            yield text.encode() + b"\n"


def _artifact_lines(source: str) -> str:
    return (
        f"SELECT json_array('a', {_struct(ARTIFACT_FIELDS)})::VARCHAR FROM {source} "
        "ORDER BY created_at, artifacts.rowid"
    )


def _struct(fields: tuple[str, ...]) -> str:
    return "{" + ", ".join(f"'{name}': {name}" for name in fields) + "}"


_FAILURE_LINES = (
    f"SELECT json_array('f', {_struct(FAILURE_FIELDS)})::VARCHAR FROM failures "
    "ORDER BY failed_at, rowid"
)
