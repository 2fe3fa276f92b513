"""Exports artifacts to Parquet, JSON lines or CSV."""

import os
import shutil
import tempfile
from pathlib import Path

import duckdb

from thothy_batch.errors import StoreError
from thothy_batch.store.columns import ARTIFACTS, IDS, JSON, TEXT, TEXTS, TIME
from thothy_batch.store.database.database import fetch_row, translated
from thothy_batch.store.files import storage_error
from thothy_batch.store.queries.read import find_run, read_store

FORMATS = {"parquet": ".parquet", "jsonl": ".jsonl", "csv": ".csv"}

# A spreadsheet reads a cell that begins with one of these as a formula, some of them also after
# white space or quotes, or as wide characters. Model output must not become a formula. A plain
# number such as -5, which an id may be, is none.
_NUMBER = r"""'^[+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?$'"""
_FORMULA_STARTS = r"""'^(?:[\t\r\n]|[\s\p{Z}\x{FEFF}"]*[=+\-@\x{FF1D}\x{FF0B}\x{FF0D}\x{FF20}])'"""


def write_export(
    store_path: Path, *, job: str | None, run: str | None, format: str, output: Path
) -> int:
    """Write artifacts to `output`; return their number.

    `run` (a run_id or a prefix of one) selects the artifacts that the run made or reused; without
    it the latest artifact of every entry is written. CSV cells that a spreadsheet would read as a
    formula get a leading apostrophe. A regular file appears whole or not at all. Raises StoreError.
    """
    if format not in FORMATS:
        raise StoreError(f"unknown format {format}", hint=f"one of: {', '.join(FORMATS)}")
    return read_store(store_path, lambda c: _write(c, job, run, format, output))


def format_of(output: Path) -> str | None:
    """Return the format by the file extension; None if it is unknown."""
    return {suffix: name for name, suffix in FORMATS.items()}.get(output.suffix.lower())


def _write(
    connection: duckdb.DuckDBPyConnection,
    job: str | None,
    run: str | None,
    format: str,
    output: Path,
) -> int:
    _check_job(connection, job)
    run_id = None if run is None else find_run(connection, run)["run_id"]
    special = os.path.exists(output) and not output.is_file()  # a pipe, /dev/stdout
    parent = output.parent.resolve()  # of the link target, so that the link stays
    if not special and not parent.is_dir():
        raise StoreError(f"there is no folder {parent}", hint="create it first")
    try:
        with tempfile.TemporaryDirectory(dir=None if special else parent) as folder:
            part = Path(folder) / output.name
            query = (
                f"COPY ({_query(format, job, run_id)}) TO {_quoted(str(part))} ({_OPTIONS[format]})"
            )
            with translated(output):
                row = fetch_row(connection, query)
            if special:
                with open(part, "rb") as source, open(output, "wb") as target:
                    shutil.copyfileobj(source, target)
            else:
                os.replace(part, output)
    except OSError as error:
        raise storage_error(error, "cannot write", output) from error
    return int(row[0]) if row else 0


_OPTIONS = {
    "parquet": "FORMAT parquet, COMPRESSION zstd",
    "jsonl": "FORMAT json",
    "csv": "FORMAT csv, HEADER true",
}


def _query(format: str, job: str | None, run_id: str | None) -> str:
    columns = ", ".join(_column(format, name) for name in ARTIFACTS)
    source = (
        "latest_artifacts"
        if run_id is None
        else "(SELECT artifacts.* FROM run_items i JOIN artifacts "
        "ON artifacts.artifact_id = i.artifact_id "
        f"WHERE i.run_id = {_quoted(run_id)} AND i.status IN ('done', 'reused'))"
    )
    where = "" if job is None else f" WHERE job = {_quoted(job)}"
    return f"SELECT {columns} FROM {source}{where} ORDER BY job, item_id, variant"


def _column(format: str, name: str) -> str:
    kind = ARTIFACTS[name]
    if kind is TIME and format != "parquet":
        return f"strftime({name} AT TIME ZONE 'UTC', '%Y-%m-%dT%H:%M:%S.%fZ') AS {name}"
    if format != "csv":
        return name
    if kind in (TEXTS, IDS):
        return f"to_json({name})::VARCHAR AS {name}"
    if kind in (TEXT, JSON):
        text = f"{name}::VARCHAR"
        risky = f"regexp_matches({text}, {_FORMULA_STARTS})"
        if name == "item_id":
            risky += f" AND NOT regexp_matches({text}, {_NUMBER})"
        return f"CASE WHEN {risky} THEN '''' || {text} ELSE {text} END AS {name}"
    return name


def _check_job(connection: duckdb.DuckDBPyConnection, job: str | None) -> None:
    """Refuse an unknown job: a misspelt name must not give an empty file."""
    if job is None or fetch_row(connection, "SELECT 1 FROM run_items WHERE job = ? LIMIT 1", [job]):
        return
    names = connection.execute(
        "SELECT job FROM run_items GROUP BY job ORDER BY max(rowid) DESC LIMIT 5"
    ).fetchall()
    raise StoreError(
        f"the store has no job {job}", hint="it has " + ", ".join(str(name[0]) for name in names)
    )


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
