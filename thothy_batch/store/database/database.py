"""Opens the database file briefly, and never twice at once in this process.

DuckDB uses POSIX locks, which end when the process closes *any* descriptor of the file. A second
open and close in this process would therefore admit a foreign writer.
"""

import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb

from thothy_batch.errors import StoreBusyError, StoreError
from thothy_batch.store.files import NO_SPACE_HINT, journal_folder, real_path, storage_error

_guard = threading.RLock()
_num_open = 0  # guarded by _guard
_THREADS = 2  # a merge is small and the engine needs the cores


@contextmanager
def open_database(
    store_path: Path, *, read_only: bool = False
) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a connection to an existing store file for the `with` block.

    Raises StoreBusyError while another program excludes this one, and StoreError for any other
    error of DuckDB, inside the block too.
    """
    path = real_path(store_path)
    with _one_at_a_time(), translated(path):
        connection = duckdb.connect(str(path), read_only=read_only, config=_settings(path))
        try:
            yield connection
        finally:
            connection.close()


@contextmanager
def open_copy(store_path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a read-only connection to a copy of a file that another program holds.

    That program is assumed to be a reader: rows that it writes at this moment may be missing. The
    whole file is copied. Raises StoreError if the copy cannot be made or read.
    """
    path = real_path(store_path)
    copy = journal_folder(path) / "copy.duckdb"
    pairs = [(path, copy), (wal_path(path), wal_path(copy))]
    try:
        with _one_at_a_time():
            for source, target in pairs:
                target.unlink(missing_ok=True)
                if source.exists():
                    shutil.copyfile(source, target)
        with open_database(copy, read_only=True) as connection:
            yield connection
    except OSError as error:
        raise storage_error(error, "cannot copy the store beside", path) from error
    finally:
        for _, target in pairs:
            target.unlink(missing_ok=True)


def wal_path(path: Path) -> Path:
    """Return the path of DuckDB's write-ahead log, whose rows are not yet in the file."""
    return path.with_name(path.name + ".wal")


def create_file(path: Path) -> None:
    """Create an empty database in the format that DuckDB 1.2 reads. `path` must not exist."""
    with _one_at_a_time(), translated(path):
        connection = duckdb.connect(config=_settings(path))
        try:
            quoted = str(path).replace("'", "''")
            connection.execute(f"ATTACH '{quoted}' AS store (STORAGE_VERSION 'v1.2.0')")
            connection.execute("DETACH store")
        finally:
            connection.close()


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Serialise threads. A second entry by the same thread is a bug of the caller."""
    global _num_open
    with _guard:
        assert _num_open == 0, "a database is opened while another one is open"
        _num_open += 1
        try:
            yield
        finally:
            _num_open -= 1


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Translate DuckDB's errors into errors with a hint."""
    try:
        yield
    except duckdb.Error as error:
        raise _store_error(path, str(error)) from error


def fetch_row(
    connection: duckdb.DuckDBPyConnection, query: str, parameters: Sequence[object] = ()
) -> tuple[Any, ...] | None:
    """Return the first row and read the result to its end: an open one blocks the connection."""
    rows = connection.execute(query, list(parameters)).fetchall()
    return rows[0] if rows else None


def _settings(path: Path) -> dict[str, str | bool | int | float | list[str]]:
    folder = journal_folder(path)
    temporary = folder if folder.is_dir() else Path(os.path.dirname(path))
    return {
        "threads": _THREADS,
        "temp_directory": str(temporary / "spill"),
        "autoinstall_known_extensions": False,  # no network during a run
    }


_KNOWN = (
    ("not a valid DuckDB database", "is not a DuckDB file", "move it away or choose another path"),
    ("Could not read enough bytes", "is damaged: a part is missing", "restore a copy of it"),
    ("checksum", "is damaged", "restore a copy of it, or move it away to start a new store"),
    ("newer version", "was written by a newer DuckDB", "upgrade with: pip install -U duckdb"),
    ("Is a directory", "is a directory", "name a file, for example --store artifacts.duckdb"),
    ("No space left", "cannot grow: the disk is full", NO_SPACE_HINT),
    ("File too large", "cannot grow: file size limit (ulimit -f)", "raise it and run it again"),
    ("Permission denied", "cannot be written by this user", "change its permissions or the path"),
    ("Read-only file system", "is on a read-only file system", "choose another path: --store"),
    ("does not exist", "does not exist", "run a manifest first, or name another store"),
    ("No such file", "cannot be made: its folder does not exist", "create the folder first"),
)


def _store_error(path: Path, text: str) -> StoreError:
    first_line = text.splitlines()[0] if text else "unknown error"
    if "lock on file" in text or "Conflicting lock" in text:
        holder = first_line.partition("held in ")[2].partition(". ")[0]
        by = f" by {holder.strip()}" if holder else ""
        return StoreBusyError(
            f"{path} is open in another program{by}",
            hint="close it there; what is not published yet waits in the journal",
        )
    for sign, what, hint in _KNOWN:
        if sign in text:
            details = "" if hint == NO_SPACE_HINT else f" ({first_line})"
            return StoreError(f"{path} {what}{details}", hint=hint)
    return StoreError(
        f"DuckDB refuses {path}: {first_line}",
        hint="the journal keeps every unpublished row; check the file and run the command again",
    )
