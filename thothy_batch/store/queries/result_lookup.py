"""Looks up cached results: request keys with an artifact, and keys that failed before."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import duckdb
import pyarrow as pa

from thothy_batch.store.journal.segment import Row

# The columns of a cached result; the result index holds exactly these.
ARTIFACT_FIELDS = ("artifact_id", "request_key", "job", "item_id", "variant", "verdict", "run_id")
FAILURE_FIELDS = (
    "request_key",
    "job",
    "item_id",
    "variant",
    "run_id",
    "code",
    "message",
    "attempt",
)


@dataclass(frozen=True, slots=True)
class CachedResult:
    """The latest success under a request key, or its latest failure if it has none.

    `artifact_ids` holds every artifact of the key: an entry whose own artifact_id is among them
    needs no copy.
    """

    run_id: str
    job: str
    item_id: str
    variant: str
    artifact_id: str = ""
    verdict: str = ""
    code: str = ""
    message: str = ""
    attempt: int = 0
    artifact_ids: frozenset[str] = frozenset()

    @property
    def failed(self) -> bool:
        """True if the key has no artifact; code, message and attempt say why."""
        return not self.artifact_id


@dataclass(slots=True)
class ResultLookup:
    """Folds rows, oldest first, into one result per key."""

    keys: frozenset[str]  # the keys to keep
    _artifacts: dict[str, Row] = field(default_factory=dict)
    _artifact_ids: dict[str, set[str]] = field(default_factory=dict)
    _failures: dict[str, Row] = field(default_factory=dict)

    def add_artifact(self, row: Row) -> None:
        key = str(row.get("request_key", ""))
        if key in self.keys:
            if not row.get("verdict"):  # a copy that is not merged yet: same key, same verdict
                row = {**row, "verdict": self._artifacts.get(key, {}).get("verdict", "")}
            self._artifacts[key] = row
            self._artifact_ids.setdefault(key, set()).add(str(row["artifact_id"]))

    def add_failure(self, row: Row) -> None:
        key = str(row.get("request_key", ""))
        if key in self.keys:
            self._failures[key] = row

    def results(self) -> dict[str, CachedResult]:
        """Return the result of each key that has one."""
        found = {key: _failure(row) for key, row in self._failures.items()}
        for key, row in self._artifacts.items():
            found[key] = _success(row, frozenset(self._artifact_ids[key]))
        return found


def read_results(connection: duckdb.DuckDBPyConnection, lookup: ResultLookup) -> None:
    """Add the database's rows under the lookup's keys, oldest first."""
    connection.register("wanted", pa.table({"request_key": pa.array(lookup.keys, pa.string())}))
    try:
        for fields, table, order, add in (
            (ARTIFACT_FIELDS, "artifacts", "created_at", lookup.add_artifact),
            (FAILURE_FIELDS, "failures", "failed_at", lookup.add_failure),
        ):
            query = (
                f"SELECT {', '.join(fields)} FROM {table} SEMI JOIN wanted USING (request_key) "
                f"ORDER BY {order}, {table}.rowid"
            )
            for row in connection.execute(query).fetchall():
                add(dict(zip(fields, row, strict=True)))
    finally:
        connection.unregister("wanted")


def slim(fields: Iterable[str], row: Row) -> Row:
    """Return only the columns of a cached result."""
    return {name: row[name] for name in fields if row.get(name) is not None}


def _text(row: Row, name: str) -> str:
    return str(row.get(name) or "")


def _success(row: Row, artifact_ids: frozenset[str]) -> CachedResult:
    return CachedResult(
        run_id=_text(row, "run_id"),
        job=_text(row, "job"),
        item_id=_text(row, "item_id"),
        variant=_text(row, "variant"),
        artifact_id=_text(row, "artifact_id"),
        verdict=_text(row, "verdict"),
        artifact_ids=artifact_ids,
    )


def _failure(row: Row) -> CachedResult:
    return CachedResult(
        run_id=_text(row, "run_id"),
        job=_text(row, "job"),
        item_id=_text(row, "item_id"),
        variant=_text(row, "variant"),
        code=_text(row, "code"),
        message=_text(row, "message"),
        attempt=int(str(row.get("attempt") or 0)),
    )
