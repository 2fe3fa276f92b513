"""Creates, migrates or refuses a store by its schema version."""

import os
from pathlib import Path

import duckdb

from thothy_batch.errors import StoreError
from thothy_batch.process import sync_folder
from thothy_batch.store.database.database import create_file, fetch_row, open_database, wal_path
from thothy_batch.store.database.migrations import MIGRATIONS
from thothy_batch.store.database.views import VIEWS
from thothy_batch.store.files import journal_folder, real_path, storage_error

SCHEMA_VERSION = len(MIGRATIONS)
_VERSION_TABLE = (
    "CREATE TABLE schema_version (version INTEGER, applied_at TIMESTAMPTZ DEFAULT now())"
)


def ensure_file(store_path: Path) -> bool:
    """Create the database file if it is missing; return True if it was created.

    The file is built beside the journal and renamed into place, so a half-made store is never seen.
    """
    path = real_path(store_path)
    if path.is_dir():
        raise StoreError(
            f"the store {path} is a directory",
            hint="name a file, for example --store artifacts.duckdb",
        )
    if path.exists() and (path.stat().st_size > 0 or not path.is_file()):
        return False  # a device has no size and must not be replaced by a file
    fresh = journal_folder(path) / "new.duckdb"
    try:
        for leftover in (fresh, wal_path(fresh), wal_path(path)):
            leftover.unlink(
                missing_ok=True
            )  # a log without its database would be applied to the wrong file
        create_file(fresh)
        with open_database(fresh) as connection:
            migrate(connection, path)
            # close() ignores a full disk and leaves the tables in a log that is not renamed.
            connection.execute("CHECKPOINT")
        os.replace(fresh, path)
        sync_folder(path.parent)
    except OSError as error:
        raise storage_error(error, "cannot make the store", path) from error
    return True


def migrate(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    """Migrate an open database to this program's schema in one transaction."""
    version = read_version(connection)
    check_version(version, path)
    if version == SCHEMA_VERSION:
        return
    connection.begin()
    if version == 0:
        _refuse_foreign_tables(connection, path)
        connection.execute(_VERSION_TABLE)
    for number, migration in enumerate(MIGRATIONS[version:], start=version + 1):
        migration(connection)
        connection.execute("INSERT INTO schema_version (version) VALUES (?)", [number])
    for name, query in VIEWS.items():
        connection.execute(f"CREATE OR REPLACE VIEW {name} AS {query}")
    connection.commit()


def read_version(connection: duckdb.DuckDBPyConnection) -> int:
    """Return the schema version of an open database; 0 if it has no table of this program."""
    tables = {row[0] for row in connection.execute("SHOW TABLES").fetchall()}
    if "schema_version" not in tables:
        return 0
    row = fetch_row(connection, "SELECT max(version) FROM schema_version")
    return int(row[0] or 0) if row else 0


def check_version(version: int, path: Path) -> None:
    """Refuse a store that a newer program wrote: its tables may have another meaning."""
    if version > SCHEMA_VERSION:
        raise StoreError(
            f"the store {path} has schema {version}, written by a newer thothy-batch "
            f"(this one knows up to {SCHEMA_VERSION})",
            hint="upgrade with: pip install -U thothy-batch",
        )


def _refuse_foreign_tables(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    """Refuse a foreign database whose table names collide; any other may be shared."""
    ours = {"artifacts", "run_items", "failures", "runs", "job_stats", "engine_steps"}
    ours |= {"engine_events", *VIEWS}
    present = {row[0] for row in connection.execute("SHOW TABLES").fetchall()}
    if clash := sorted(ours & present):
        raise StoreError(
            f"{path} has its own table {clash[0]} and is no thothy-batch store",
            hint="choose another file with --store",
        )
