"""Looks up cached results: request keys with an artifact, and keys that failed before."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import duckdb
import pyarrow as pa

from thothy_batch.records import EntryKey
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

    `verdicts` holds every artifact of the key by its id: an entry whose own is among them needs no
    copy.
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
    verdicts: Mapping[str, str] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        """True if the key has no artifact; code, message and attempt say why."""
        return not self.artifact_id


@dataclass(slots=True)
class ResultLookup:
    """Folds rows, oldest first, into one result per key."""

    keys: frozenset[str]  # the keys to keep
    entries: frozenset[EntryKey] = frozenset()  # whose last failure is to be kept, under any key
    _artifacts: dict[str, Row] = field(default_factory=dict)
    _verdicts: dict[str, dict[str, str]] = field(default_factory=dict)
    _failures: dict[str, Row] = field(default_factory=dict)
    _last_failures: dict[EntryKey, Row] = field(default_factory=dict)

    def add_artifact(self, row: Row) -> None:
        key = str(row.get("request_key", ""))
        if key in self.keys:
            if not row.get("verdict"):  # a copy that is not merged yet: same key, same verdict
                row = {**row, "verdict": self._artifacts.get(key, {}).get("verdict", "")}
            self._artifacts[key] = row
            verdicts = self._verdicts.setdefault(key, {})
            verdicts[str(row["artifact_id"])] = str(row["verdict"])

    def add_failure(self, row: Row) -> None:
        key = str(row.get("request_key", ""))
        if key in self.keys:
            self._failures[key] = row
        if self.entries and (entry := _entry_of(row)) in self.entries:
            self._last_failures[entry] = row

    def last_failures(self) -> dict[EntryKey, tuple[str, str]]:
        """Return code and message of the last failure of each entry that has one."""
        return {e: (_text(r, "code"), _text(r, "message")) for e, r in self._last_failures.items()}

    def results(self) -> dict[str, CachedResult]:
        """Return the result of each key that has one."""
        found = {key: _failure(row) for key, row in self._failures.items()}
        for key, row in self._artifacts.items():
            found[key] = _success(row, self._verdicts[key])
        return found


def read_results(connection: duckdb.DuckDBPyConnection, lookup: ResultLookup) -> None:
    """Add the database's rows under the lookup's keys and of its entries, oldest first."""
    if lookup.keys:
        _read_keys(connection, lookup)
    if lookup.entries:
        _read_entries(connection, lookup)


def _read_entries(connection: duckdb.DuckDBPyConnection, lookup: ResultLookup) -> None:
    names = ("job", "item_id", "variant")
    columns = {n: pa.array([getattr(e, n) for e in lookup.entries], pa.string()) for n in names}
    connection.register("wanted", pa.table(columns))
    try:
        query = (
            f"SELECT {', '.join(FAILURE_FIELDS)} FROM failures SEMI JOIN wanted "
            f"USING ({', '.join(names)}) ORDER BY failed_at, failures.rowid"
        )
        for row in connection.execute(query).fetchall():
            lookup.add_failure(dict(zip(FAILURE_FIELDS, row, strict=True)))
    finally:
        connection.unregister("wanted")


def _read_keys(connection: duckdb.DuckDBPyConnection, lookup: ResultLookup) -> None:
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


def _entry_of(row: Row) -> EntryKey:
    return EntryKey(_text(row, "job"), _text(row, "item_id"), _text(row, "variant"))


def _success(row: Row, verdicts: Mapping[str, str]) -> CachedResult:
    entry = _entry_of(row)
    return CachedResult(
        run_id=_text(row, "run_id"),
        job=entry.job,
        item_id=entry.item_id,
        variant=entry.variant,
        artifact_id=_text(row, "artifact_id"),
        verdict=_text(row, "verdict"),
        verdicts=verdicts,
    )


def _failure(row: Row) -> CachedResult:
    entry = _entry_of(row)
    return CachedResult(
        run_id=_text(row, "run_id"),
        job=entry.job,
        item_id=entry.item_id,
        variant=entry.variant,
        code=_text(row, "code"),
        message=_text(row, "message"),
        attempt=int(str(row.get("attempt") or 0)),
    )
