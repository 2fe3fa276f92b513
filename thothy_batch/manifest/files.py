"""Finds Parquet files by glob, folder or hive folder; errors name the file."""

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

from thothy_batch.errors import ManifestError, Problem

_HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
# Rows decoded at a time; rows of 100 kB still fit into memory easily.
BATCH_ROWS = 1024
# Bytes per column through which a row group is streamed instead of read whole.
_STREAMED = {"buffer_size": 64 * 1024, "pre_buffer": False}
# INT96 times, as Spark writes them, in nanoseconds end in 2262 and wrap around.
_TYPES = {"coerce_int96_timestamp_unit": "us"}


@dataclass(frozen=True, slots=True)
class DataFile:
    """A Parquet file of an input. `label` is its path in messages."""

    path: Path
    label: str
    hive: dict[str, str | None] = field(default_factory=dict)  # from folders named key=value


def find_files(patterns: Iterable[str], base: Path) -> tuple[list[DataFile], list[str]]:
    """Return the files of all patterns, each once, by pattern; and the patterns without files."""
    found: dict[Path, DataFile] = {}
    unmatched = []
    for pattern in patterns:
        paths = _expand(os.path.expanduser(pattern), base)
        if not paths:
            unmatched.append(pattern)
        for path in paths:
            found.setdefault(path, DataFile(path, _label(path, base), _hive(path, base)))
    return list(found.values()), unmatched


@contextmanager
def reading(file: DataFile) -> Iterator[Any]:
    """Open a pq.ParquetFile for the block; errors inside become a ManifestError of this file."""
    try:
        with pq.ParquetFile(
            file.path, metadata=_metadata(file.path), **_STREAMED, **_TYPES
        ) as parquet:
            yield parquet
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ManifestError([_unreadable(file, error)]) from error


def read_batches(
    parquet: Any, columns: Sequence[str], row_groups: Sequence[int] | None = None
) -> Iterator[Any]:
    """Yield record batches of an open file with these columns."""
    groups = range(parquet.num_row_groups) if row_groups is None else row_groups
    for group in groups:
        yield from parquet.iter_batches(BATCH_ROWS, row_groups=[group], columns=list(columns))


def _metadata(path: Path) -> Any:
    """Read the footer of a file without the Arrow types that its writer put there.

    What a file holds is what Parquet's own types say, as every other reader has it. A dictionary
    column, for one, is decoded as a whole and fails with one invalid text, while the plain strings
    of Parquet do not. Arrow's types are stored in the footer under a key; under any other key they
    are ignored.
    """
    metadata = pq.read_metadata(path)
    if b"ARROW:schema" not in (metadata.metadata or {}):
        return metadata
    with path.open("rb") as file:
        file.seek(-8, os.SEEK_END)
        size = int.from_bytes(file.read(4), "little")
        file.seek(-8 - size, os.SEEK_END)
        footer = file.read().replace(b"ARROW:schema", b"ARROW:hidden")
    return pq.read_metadata(pa.BufferReader(b"PAR1" + footer))


def _expand(pattern: str, base: Path) -> list[Path]:
    try:
        # An existing name is meant literally, even if it looks like a pattern: "data[1].parquet".
        there = (base / pattern).exists()
        names = [pattern] if there else glob.glob(pattern, root_dir=base, recursive=True)
    except (OSError, ValueError):  # too long for the file system, or containing a NUL
        return []
    paths: list[Path] = []
    for name in sorted(names):
        path = base / name
        paths += _within(path) if path.is_dir() else [path]
    return paths


def _within(folder: Path) -> list[Path]:
    """Return the Parquet files below a folder; hidden and _internal ones are skipped."""
    paths = []
    for path in sorted(folder.rglob("*.parquet")):
        inner = path.relative_to(folder).parts
        if path.is_file() and not any(part.startswith((".", "_")) for part in inner):
            paths.append(path)
    return paths


def _label(path: Path, base: Path) -> str:
    return str(path.relative_to(base)) if path.is_relative_to(base) else str(path)


def _hive(path: Path, base: Path) -> dict[str, str | None]:
    folders = path.relative_to(base) if path.is_relative_to(base) else path
    pairs = [part.split("=", 1) for part in folders.parts[:-1] if "=" in part]
    values = {unquote(key): unquote(value) for key, value in pairs if key}
    return {key: None if value == _HIVE_NULL else value for key, value in values.items()}


def _unreadable(file: DataFile, error: Exception) -> Problem:
    hint = ""
    if file.path.suffix in (".csv", ".json", ".jsonl", ".tsv"):
        hint = f"other formats are read with input: {{sql: \"select * from '{file.label}'\"}}"
    if isinstance(error, FileNotFoundError):
        return Problem("there is no such file", file.label)
    if isinstance(error, OSError) and error.errno is not None and error.strerror:
        return Problem(f"cannot be read: {error.strerror}", file.label)
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return Problem(f"is not a readable Parquet file: {lines[0]}", file.label, hint=hint)
