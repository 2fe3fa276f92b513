"""Workloads in files: requests as in `kind: raw`, and traces of lengths.

An unusable row is refused by name; a file without any usable row is an error.
"""

import csv
from array import array
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np

from thothy_batch.bench.trace_blocks import TraceBlocks
from thothy_batch.bench.workload import (
    MAX_TOKENS,
    Refusal,
    Workload,
    greedy,
    is_length,
    random_tokens,
)
from thothy_batch.errors import ManifestError
from thothy_batch.records import Request, TokenIds

RAW = ("prompt_token_ids", "max_tokens")
TRACE = ("prompt_tokens", "output_tokens")
_NAME, _BLOCKS = "id", "hash_ids"
_LISTS = (RAW[0], _BLOCKS)
_MAX_DIGITS = 100  # int() takes at most 4,300
_HINT = f"a workload has the columns {' and '.join(RAW)}, a trace of lengths {' and '.join(TRACE)}"
Columns = Mapping[str, list[object]]


def file_workload(
    path: Path, *, vocab_size: int, limit: int | None = None, seed: int = 0
) -> Workload:
    """Read requests or a trace of lengths, by the file's columns. Raises ManifestError."""
    if RAW[0] in _names(path):
        return raw_workload(path, limit=limit)
    return trace_workload(path, vocab_size=vocab_size, limit=limit, seed=seed)


def raw_workload(path: Path, *, limit: int | None = None) -> Workload:
    """Read the first `limit` rows of prompt_token_ids and max_tokens. Raises ManifestError."""
    columns = _read(path, RAW, (_NAME,), limit)

    def prompt_of(row: int) -> TokenIds:
        ids = columns["prompt_token_ids"][row]
        if not isinstance(ids, list) or not ids:
            raise ValueError(f"prompt_token_ids is {'empty' if ids == [] else _shown(ids)}")
        try:
            return array("i", ids)
        except (TypeError, OverflowError) as error:
            raise ValueError(f"prompt_token_ids has an invalid token id: {error}") from None

    return _workload(path, columns, prompt_of, columns["max_tokens"], "max_tokens")


def trace_workload(
    path: Path, *, vocab_size: int, limit: int | None = None, seed: int = 0
) -> Workload:
    """Read the first `limit` rows of a trace of lengths and generate random tokens.

    With hash_ids, prompts share the blocks of equal ids. Raises ManifestError.
    """
    columns = _read(path, TRACE, (_NAME, _BLOCKS), limit)
    lengths = columns["prompt_tokens"]
    rng = np.random.default_rng(seed)
    blocks = None
    if _BLOCKS in columns:
        blocks = TraceBlocks.of(path, columns[_BLOCKS], lengths, vocab_size, seed)

    def prompt_of(row: int) -> TokenIds:
        length = _count(lengths[row], "prompt_tokens")
        if blocks is not None:
            return blocks.prompt(columns[_BLOCKS][row], length)
        return random_tokens(rng, length, vocab_size)

    return _workload(path, columns, prompt_of, columns["output_tokens"], "output_tokens")


def _workload(
    path: Path,
    columns: Columns,
    prompt_of: Callable[[int], TokenIds],
    outputs: list[object],
    output_name: str,
) -> Workload:
    """A request per usable row."""
    requests: list[Request] = []
    refused: list[Refusal] = []
    names = columns.get(_NAME, [None] * len(outputs))
    for row, (output, given) in enumerate(zip(outputs, names, strict=True), 1):
        name = f"row {row}" if given is None else f"row {row} ({given})"
        try:
            max_tokens = _count(output, output_name)
            requests.append(greedy(len(requests), name, prompt_of(row - 1), max_tokens))
        except ValueError as error:
            refused.append(Refusal(name, str(error)))
    if not requests:
        first = f"; {refused[0].name}: {refused[0].message}" if refused else ""
        raise ManifestError(f"{path} has no usable row{first}", hint=_HINT)
    return Workload(f"{path.name}, {len(outputs):,} rows", requests, tuple(refused))


def _count(value: object, name: str) -> int:
    if not is_length(value):
        raise ValueError(f"{name} is {_shown(value)}, not a whole number from 1 to {MAX_TOKENS:,}")
    return value


def _shown(value: object) -> str:
    return "null" if value is None else repr(value)[:80]


def _names(path: Path) -> list[str]:
    """The column names of a file. Raises ManifestError where it cannot be read."""
    if not path.is_file():
        raise ManifestError(f"{path}: there is no such file", hint=_HINT)
    if path.suffix == ".csv":
        return list(_csv_columns(path, 0))
    # Late, here and below: only Parquet files need it.
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return list(pq.read_schema(path).names)
    except (OSError, pa.ArrowException) as error:
        raise ManifestError(
            f"{path} cannot be read as Parquet: {error}", hint="give a .parquet or .csv file"
        ) from error


def _read(path: Path, needed: Iterable[str], more: Iterable[str], limit: int | None) -> Columns:
    """Columns of the first rows: all of `needed`, and those of `more` that exist."""
    existing = _names(path)
    if missing := [name for name in needed if name not in existing]:
        raise ManifestError(
            f"{path} has no column {' and no column '.join(missing)}, only {', '.join(existing)}",
            hint=_HINT,
        )
    wanted = [*needed, *(name for name in more if name in existing)]
    if path.suffix == ".csv":
        columns = _csv_columns(path, limit)
        return {name: columns[name] for name in wanted}
    return _parquet_columns(path, wanted, limit)


def _parquet_columns(path: Path, wanted: list[str], limit: int | None) -> Columns:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, list[object]] = {name: [] for name in wanted}
    try:
        with pq.ParquetFile(path) as file:
            left = file.metadata.num_rows if limit is None else limit
            for batch in file.iter_batches(columns=wanted):
                for name in wanted:
                    columns[name] += (
                        batch.slice(0, min(left, batch.num_rows)).column(name).to_pylist()
                    )
                left -= batch.num_rows
                if left <= 0:
                    break
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        raise ManifestError(f"{path} cannot be read: {error}", hint=_HINT) from error
    return columns


def _csv_columns(path: Path, limit: int | None) -> dict[str, list[object]]:
    """Every column, whole numbers and lists of them parsed, all else as text."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            columns: dict[str, list[object]] = {name: [] for name in reader.fieldnames or ()}
            for number, row in enumerate(reader):
                if number == limit:
                    break
                for name in columns:
                    columns[name].append((_list if name in _LISTS else _cell)(row[name]))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ManifestError(f"{path} cannot be read as CSV: {error}", hint=_HINT) from error
    return columns


def _cell(text: str | None) -> object:
    if not text:
        return None
    return int(text) if len(text) <= _MAX_DIGITS and text.strip().isdecimal() else text


def _list(text: str | None) -> object:
    """Parse a cell like `[1, 2]`."""
    inside = (text or "").strip()
    if not (inside.startswith("[") and inside.endswith("]")):
        return _cell(text)
    inside = inside[1:-1].strip()
    return [_cell(part) for part in inside.split(",")] if inside else []
