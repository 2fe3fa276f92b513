"""Opens Parquet files and streams their rows. Errors name the file and the damaged part of it."""

import os
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from thothy_batch.errors import ManifestError, Problem
from thothy_batch.manifest.data_file import DataFile, state_of

_MAGIC = b"PAR1"
_WRITE_AGAIN = "copy or write the file again, or take it out of the input"
# Rows decoded at a time; rows of 100 kB still fit into memory easily.
BATCH_ROWS = 1024
# Bytes per column through which a row group is streamed instead of read whole. Pages that have a
# checksum are compared with it. INT96 times, as Spark writes them, in nanoseconds end in 2262 and
# wrap around.
_OPTIONS = {
    "buffer_size": 64 * 1024,
    "pre_buffer": False,
    "page_checksum_verification": True,
    "coerce_int96_timestamp_unit": "us",
}
_FAULTS = (pa.ArrowException, OSError, ValueError, IndexError)
# Four integer fields of Thrift's compact protocol: type and two sizes of a page, its checksum.
_FOUR_INTEGERS = re.compile(rb"(\x15[\x80-\xff]*[\x00-\x7f]){3}\x15", re.DOTALL)
_PAGE_HEAD_BYTES = 32


class _DamagedError(ValueError):
    """A part of an open file cannot be decoded; the text names it."""


class _ChangedError(ValueError):
    """A file is no longer the one that was found."""


@contextmanager
def reading(file: DataFile) -> Iterator[Any]:
    """Open a pq.ParquetFile for the block; errors inside become a ManifestError of this file.

    A file that was changed since it was found is an error too: half of its rows might be new.
    """
    try:
        with pa.OSFile(os.fsencode(file.path)) as handle:
            try:
                _check_unchanged(file, handle)
                yield _open(handle)
            except _FAULTS:
                _check_unchanged(file, handle)
                raise
            _check_unchanged(file, handle)
    except _FAULTS as error:
        raise ManifestError([_unreadable(file, error)]) from error


def read_batches(
    parquet: Any, columns: Sequence[str], row_groups: Sequence[int] | None = None
) -> Iterator[Any]:
    """Yield record batches of an open file with these columns."""
    groups = range(parquet.num_row_groups) if row_groups is None else row_groups
    for group in groups:
        batches = parquet.iter_batches(BATCH_ROWS, row_groups=[group], columns=list(columns))
        while True:
            try:
                batch = next(batches, None)
            except _FAULTS as error:
                raise _DamagedError(_damage(parquet, columns, group, error)) from error
            if batch is None:
                break
            yield batch


def check_pages(file: DataFile, names: Collection[str] | None) -> None:
    """Compare the pages of a file with their checksums, where it has checksums.

    `names`: of columns, in lower case; None: all columns. Raises ManifestError.
    """
    with reading(file) as parquet:
        columns = [
            name for name in parquet.schema_arrow.names if names is None or name.lower() in names
        ]
        if columns and _has_checksums(file, parquet.metadata):
            for _ in read_batches(parquet, columns):
                pass


def _has_checksums(file: DataFile, metadata: Any) -> bool:
    """True if the first page has one: writers give one to every page or to none.

    A page begins with three integers, then its checksum, an integer too, if there is one.
    """
    if not metadata.num_row_groups or not metadata.num_columns:
        return False
    chunk = metadata.row_group(0).column(0)
    with file.path.open("rb") as raw:
        raw.seek(chunk.dictionary_page_offset or chunk.data_page_offset)
        head = raw.read(_PAGE_HEAD_BYTES)
    return _FOUR_INTEGERS.match(head) is not None


def _open(handle: Any) -> Any:
    """Open a file without the Arrow types that its writer put there.

    What a file holds is what Parquet's own types say, as every other reader has it. A dictionary
    column, for one, is decoded as a whole and fails with one invalid text, while the plain strings
    of Parquet do not. Arrow's types are stored in the footer under a key; under any other key they
    are ignored.
    """
    parquet = pq.ParquetFile(handle, **_OPTIONS)
    handle.seek(0)
    if handle.read(len(_MAGIC)) != _MAGIC:
        raise ValueError("it does not begin with the letters PAR1")
    if b"ARROW:schema" not in (parquet.metadata.metadata or {}):
        return parquet
    handle.seek(handle.size() - 8)
    size = int.from_bytes(handle.read(4), "little")
    handle.seek(handle.size() - 8 - size)
    footer = handle.read(size + 8).replace(b"ARROW:schema", b"ARROW:hidden")
    metadata = pq.read_metadata(pa.BufferReader(_MAGIC + footer))
    return pq.ParquetFile(handle, metadata=metadata, **_OPTIONS)


def _check_unchanged(file: DataFile, handle: Any) -> None:
    if file.state is not None and state_of(os.fstat(handle.fileno())) != file.state:
        raise _ChangedError("was changed while the input was read")


def _damage(parquet: Any, columns: Sequence[str], group: int, error: Exception) -> str:
    """Say which row group is damaged, and which column: each is tried by itself."""
    where = f"is damaged in row group {group + 1} of {parquet.num_row_groups}"
    for column in columns:
        try:
            for _ in parquet.iter_batches(BATCH_ROWS, row_groups=[group], columns=[column]):
                pass
        except _FAULTS as found:
            return f"{where}, column {column!r}: {_first_line(found)}"
    return f"{where}: {_first_line(error)}"


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0]


def _unreadable(file: DataFile, error: Exception) -> Problem:
    if isinstance(error, _ChangedError):
        return Problem(str(error), file.label, hint="run again when nothing writes it any more")
    if isinstance(error, _DamagedError):
        return Problem(str(error), file.label, hint=_WRITE_AGAIN)
    if isinstance(error, FileNotFoundError):
        return Problem("there is no such file", file.label)
    if isinstance(error, OSError) and error.errno is not None:
        return Problem(f"cannot be read: {os.strerror(error.errno)}", file.label)
    hint = ""
    if file.path.suffix in (".csv", ".json", ".jsonl", ".tsv"):
        hint = f"other formats are read with input: {{sql: \"select * from '{file.label}'\"}}"
    return Problem(f"is not a readable Parquet file: {_first_line(error)}", file.label, hint=hint)
