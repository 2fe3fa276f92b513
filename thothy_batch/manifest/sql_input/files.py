"""Looks at the files that an SQL input names, by the rules of every other input."""

import os
from dataclasses import dataclass
from pathlib import Path

import duckdb

from thothy_batch.manifest.data_file import DataFile
from thothy_batch.manifest.file_search import find_files, is_parquet_name
from thothy_batch.manifest.files import check_pages
from thothy_batch.manifest.sql_input.tree import Tree, files_named, names_in

_MAX_NAMED = 3
# DuckDB compares no checksums of pages, so the columns that a query names are read once before it.
# Inputs larger than this are left alone: a query may need a small part of them.
_MAX_CHECKED_BYTES = 16 << 30


@dataclass(frozen=True, slots=True)
class SqlFiles:
    """The files of a SELECT. `num_files` None: it names none."""

    num_files: int | None
    notes: list[str]


def look_at_files(connection: duckdb.DuckDBPyConnection, tree: Tree) -> SqlFiles:
    """Find the files of a SELECT below the current folder.

    Raises ValueError or ManifestError for one that no input could read. Files that DuckDB's globs
    leave out are notes. A glob without any file is left to DuckDB's own words.
    """
    read: set[str] = set()
    checked: dict[str, DataFile] = {}
    notes = []
    for pattern in files_named(tree):
        if "://" in pattern:
            continue
        found = find_files([pattern], Path.cwd())
        problems = [problem for problem in found.problems if problem.path]
        if problems:
            raise ValueError("; ".join(map(str, problems[:_MAX_NAMED])))
        rows = connection.execute("SELECT file FROM glob(?)", [pattern]).fetchall()
        seen = {os.path.realpath(name) for (name,) in rows}
        read |= seen
        unseen = [file for file in found.files if os.path.realpath(file.path) not in seen]
        if unseen:
            notes.append(_unseen(pattern, unseen))
        checked |= {file.label: file for file in found.files if os.path.realpath(file.path) in seen}
    num_bytes = sum(os.path.getsize(file.path) for file in checked.values())
    if num_bytes <= _MAX_CHECKED_BYTES:
        for file in checked.values():
            if is_parquet_name(file.path.name):
                check_pages(file, names_in(tree))
    else:
        notes.append(f"checksums of pages are not compared in {num_bytes >> 30} GiB of files")
    return SqlFiles(len(read) or None, notes)


def _unseen(pattern: str, files: list[DataFile]) -> str:
    names = ", ".join(file.label for file in files[:_MAX_NAMED])
    more = f" and {len(files) - _MAX_NAMED} more" if len(files) > _MAX_NAMED else ""
    return (
        f"DuckDB's glob {pattern!r} leaves out {names}{more}: it follows no links below ** and "
        "minds the case of letters; name them in read_parquet([...])"
    )
