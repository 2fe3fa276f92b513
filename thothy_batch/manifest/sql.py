"""Streams the SQL input of a job: one SELECT in an empty in-memory DuckDB.

The query runs in a child process whose working folder is the manifest's: DuckDB resolves a relative
path in the working folder first, whatever `file_search_path` says, and that setting cannot name a
folder with a comma. The SQL has access to nothing else of DuckDB: no other statement, no extension
downloads, no variables of the program.
"""

import multiprocessing
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import duckdb

from thothy_batch.errors import ManifestError, Problem
from thothy_batch.manifest.files import BATCH_ROWS
from thothy_batch.manifest.sql_types import carried_by_arrow
from thothy_batch.process import end_with_parent, parent_signals_blocked

_RUN_TEXT = (b"query", b"json_execute_serialized_sql")


class SqlRows:
    """The rows of one SELECT. `where` is its place in the manifest, for problems."""

    def __init__(self, sql: str, base: Path, where: Problem) -> None:
        self._sql = sql
        self._base = base
        self._where = where
        self._schema: Any = None

    def schema(self) -> Any:
        """Return the Arrow schema of the result. Raises ManifestError if DuckDB refuses the SQL."""
        if self._schema is None:
            with self._child(True) as messages:
                self._schema = next(messages)
        return self._schema

    def batches(self) -> Iterator[Any]:
        """Yield record batches of the result. Raises ManifestError if the query fails midway."""
        with self._child(False) as messages:
            yield from messages

    @contextmanager
    def _child(self, only_schema: bool) -> Iterator[Iterator[Any]]:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe(duplex=False)
        job = (theirs, self._sql, str(self._base), only_schema)
        child = context.Process(target=_serve, args=job, daemon=True)
        try:
            with parent_signals_blocked():  # in the child they stay so
                child.start()
            theirs.close()  # so that the pipe ends when the child ends
            yield self._messages(ours)
        finally:
            ours.close()
            if child.pid is not None:
                child.kill()
                child.join()
            child.close()

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


def _serve(connection: Connection, sql: str, base: str, only_schema: bool) -> None:
    """Run in the child: send ("rows", batch or schema), last ("end", None) or ("error", text)."""
    end_with_parent()
    try:
        os.chdir(base)
        reader = _query(sql, only_schema)
        if only_schema:
            connection.send(("rows", reader.schema))
        else:
            for batch in reader:
                connection.send(("rows", batch))
        message: tuple[str, object] = ("end", None)
    except BrokenPipeError:
        return  # the parent wants no more
    except Exception as error:  # any error: the parent words it for the user
        message = ("error", _shortened(error))
    with suppress(BrokenPipeError):
        connection.send(message)


def _query(sql: str, only_schema: bool) -> Any:
    connection = duckdb.connect(":memory:")
    temporary = tempfile.gettempdir().replace("'", "''")
    connection.execute(f"SET temp_directory = '{temporary}'")
    # Network access and foreign databases are extensions.
    connection.execute("SET autoinstall_known_extensions = false")
    connection.execute("SET autoload_known_extensions = false")
    connection.execute("SET allow_persistent_secrets = false")
    connection.execute("SET python_enable_replacements = false")
    # Times with a zone, and texts made of them, are the same whatever the machine's own zone is.
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("SET lock_configuration = true")
    if not _is_one_select(connection, sql):
        raise ValueError("must be one SELECT and nothing else")
    sql = _without_end(sql)
    _check_reads_only(connection, sql)
    relation = carried_by_arrow(connection.sql(sql))
    if only_schema:
        relation = relation.limit(0)
    # Older releases have only the second name, newer ones warn about it.
    make = getattr(relation, "to_arrow_reader", None) or relation.fetch_record_batch
    return make(BATCH_ROWS)


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
