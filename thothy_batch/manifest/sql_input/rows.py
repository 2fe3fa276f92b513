"""Streams the SQL input of a job: one SELECT in an empty in-memory DuckDB, in a total order.

The query runs in a child process whose working folder is the manifest's: DuckDB resolves a relative
path in the working folder first, whatever `file_search_path` says, and that setting cannot name a
folder with a comma. The SQL has access to nothing else of DuckDB: no other statement, no extension
downloads, no variables of the program. It computes in one thread and in UTC, so that sums of
floats, lists, limits of subqueries and texts of times are the same on every machine.
"""

import logging
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import duckdb

from thothy_batch.errors import ManifestError, Problem
from thothy_batch.manifest.files import BATCH_ROWS
from thothy_batch.manifest.sql_input.files import SqlFiles, look_at_files
from thothy_batch.manifest.sql_input.tree import changing_parts, in_total_order, parse_select
from thothy_batch.manifest.sql_input.types import carried_by_arrow
from thothy_batch.process import end_with_parent, spawned

_RUN_TEXT = (b"query", b"json_execute_serialized_sql")
_SETTINGS = (
    # Network access and foreign databases are extensions.
    "autoinstall_known_extensions = false",
    "autoload_known_extensions = false",
    "allow_persistent_secrets = false",
    "python_enable_replacements = false",
    "threads = 1",
    "TimeZone = 'UTC'",
    # Sorting goes to the temporary folder beyond it; the items have to fit beside it.
    "memory_limit = '50%'",
    "lock_configuration = true",
)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Described:
    """A SELECT before it runs."""

    schema: Any
    files: SqlFiles | None
    changing: list[str] = field(default_factory=list)  # with each run


class SqlRows:
    """The rows of one SELECT. `where` is its place in the manifest, for problems."""

    def __init__(self, sql: str, base: Path, where: Problem, limit: int | None = None) -> None:
        self._sql = sql
        self._base = base
        self._where = where
        self._limit = limit
        self._described: _Described | None = None
        self.notes: list[str] = []

    @property
    def num_files(self) -> int | None:
        """The number of files that the SQL names; None if unknown or if it names none."""
        files = self._described.files if self._described else None
        return files.num_files if files else None

    def schema(self) -> Any:
        """Return the Arrow schema of the result. Raises ManifestError if DuckDB refuses the SQL."""
        if self._described is None:
            with self._child(None) as messages:
                self._described = next(messages)
            self._note(self._described)
        return self._described.schema

    def batches(self, first: Sequence[str]) -> Iterator[Any]:
        """Yield record batches of the result. Raises ManifestError if the query fails midway.

        Rows that the SQL's own ORDER BY leaves in any order are ordered by the columns `first`,
        then by the others.
        """
        with self._child(list(first)) as messages:
            yield from messages

    def _note(self, described: _Described) -> None:
        if described.changing:
            said = ", ".join(described.changing)
            self.notes.append(
                f"{self._where.message}SQL: {said} may differ in each run, and what differs is "
                "computed again"
            )
        if described.files:
            self.notes += [f"{self._where.message}SQL: {text}" for text in described.files.notes]
        for note in self.notes:
            _log.warning("%s", note)

    @contextmanager
    def _child(self, first: list[str] | None) -> Iterator[Iterator[Any]]:
        job = (self._sql, str(self._base), first, self._limit)
        with spawned(_serve, *job) as connection:
            yield self._messages(connection)

    def _messages(self, connection: Connection) -> Iterator[Any]:
        while True:
            try:
                kind, content = connection.recv()
            except (EOFError, OSError):
                raise self._error("the process that ran it ended without a word") from None
            if kind == "error":
                raise self._error(content)
            if kind == "end":
                return
            yield content

    def _error(self, message: str) -> ManifestError:
        at = self._where
        return ManifestError([Problem(f"{at.message}SQL: {message}", at.path, at.line)])


def _serve(
    connection: Connection, sql: str, base: str, first: list[str] | None, limit: int | None
) -> None:
    """Run in the child: send ("rows", batch), last ("end", None) or ("error", text).

    `first` None: the only message is ("rows", _Described).
    """
    end_with_parent()
    try:
        os.chdir(base)
        if first is None:
            connection.send(("rows", _describe(sql)))
        else:
            for batch in _query(sql, first, limit):
                connection.send(("rows", batch))
        message: tuple[str, object] = ("end", None)
    except BrokenPipeError:
        return  # the parent wants no more
    except Exception as error:  # any error: the parent words it for the user
        message = ("error", _shortened(error))
    with suppress(BrokenPipeError):
        connection.send(message)


def _describe(sql: str) -> _Described:
    connection = _connect()
    sql = _one_select(connection, sql)
    tree = parse_select(connection, sql)
    # Looked at first: DuckDB would wait for the other end of a named pipe.
    files = look_at_files(connection, tree) if tree else None
    _check_reads_only(connection, sql)
    schema = _reader(connection.sql(sql).limit(0)).schema
    return _Described(schema, files, changing_parts(connection, tree) if tree else [])


def _query(sql: str, first: Sequence[str], limit: int | None = None) -> Any:
    """Return a reader of the rows, ordered by the SQL, then by these columns and the others."""
    connection = _connect()
    sql = _one_select(connection, sql)
    _check_reads_only(connection, sql)
    columns = connection.sql(sql).columns
    names = dict.fromkeys([name for name in first if name in columns] + columns)
    positions = [columns.index(name) + 1 for name in names]
    rows = connection.sql(in_total_order(connection, sql, positions))
    return _reader(rows if limit is None else rows.limit(limit))


def _connect() -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(":memory:")
    temporary = tempfile.gettempdir().replace("'", "''")
    connection.execute(f"SET temp_directory = '{temporary}'")
    for setting in _SETTINGS:
        connection.execute(f"SET {setting}")
    return connection


def _reader(relation: duckdb.DuckDBPyRelation) -> Any:
    relation = carried_by_arrow(relation)
    # Older releases have only the second name, newer ones warn about it.
    make = getattr(relation, "to_arrow_reader", None) or relation.fetch_record_batch
    return make(BATCH_ROWS)


def _one_select(connection: duckdb.DuckDBPyConnection, sql: str) -> str:
    """Return the text of the only statement, without what ends it."""
    if not _is_one_select(connection, sql):
        raise ValueError("must be one SELECT and nothing else")
    return _without_end(sql)


def _is_one_select(connection: duckdb.DuckDBPyConnection, sql: str) -> bool:
    statements = connection.extract_statements(sql)
    try:
        return [statement.type for statement in statements] == [duckdb.StatementType.SELECT]
    except ValueError:  # a statement type that this DuckDB does not name in Python
        return False


def _check_reads_only(connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    """Raise if a SELECT does more than select.

    COPY TO, INSERT and others can be the body of a WITH, but DuckDB refuses them there if the
    SELECT is an inner one. Two functions run SQL text unchecked.
    """
    text = sql.encode()
    starts = [offset for offset, _ in duckdb.tokenize(sql)]
    tokens = [text[start:end] for start, end in pairwise([*starts, len(text)])]
    words = [token.strip() for token in tokens if not token.startswith((b"--", b"/*"))]
    for word, behind in pairwise(words):
        name = word.strip(b'"').lower()
        if name in _RUN_TEXT and behind.startswith(b"("):
            raise ValueError(f"{name.decode()}(...) is not allowed: write its SELECT out")
    connection.execute(f"EXPLAIN SELECT * FROM (\n{sql}\n)")


def _without_end(sql: str) -> str:
    """Remove a final semicolon and comments: DuckDB wraps the text."""
    text = sql.encode()
    end = len(text)
    for offset, _ in reversed(duckdb.tokenize(sql)):
        if not text.startswith((b";", b"--", b"/*"), offset):
            break
        end = offset
    return text[:end].decode()


def _shortened(error: Exception) -> str:
    """Return DuckDB's message in one line, without its excerpt of the query."""
    text = str(error).split("\n\nLINE ")[0]
    return " ".join(text.split())[:500]
