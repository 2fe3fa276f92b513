"""A folder with a hostile night: rows as Parquet, a manifest of every kind, a job manifest."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hostile_rows import Cell, HostileRow

# Names that a manifest and a file system allow.
JOBS = {
    "summary": "<script>document.title='owned'</script> [bold red]{{ 7*7 }}",
    "hook": '=HYPERLINK("http://x","click")',
    "translation": "'; DROP TABLE runs; -- שלום",
    "report": "../../etc/passwd " + "wide " * 60,
    "raw": "@SUM(1+1) $(touch thothy-was-here) \U00013000",
}
ROWS = "rows \x1bc\x9b2J\u202e<img src=x onerror=alert(1)>\n=1+1.parquet"
STORE = "store \x1bc\x9b2J\u202e<b>\n.duckdb"
MANIFEST = "night \x1bc\x9b2J\u202e<b>'\"\n.yaml"
JOB_MANIFEST = "jobs \x1bc\u202e<b>.parquet"
_MORE = {
    "summary": "on_too_long: truncate_tail",
    "hook": "params: {variants: 2}",
    "translation": "on_too_long: truncate_head",
    "report": "params: {group_by: week}",
    "raw": "columns: {prompt: text}",
}


@dataclass(frozen=True, slots=True)
class HostileFolder:
    """The folder of the files, and the rows that they hold."""

    path: Path
    rows: Sequence[HostileRow]

    @property
    def manifest(self) -> Path:
        return self.path / MANIFEST

    @property
    def job_manifest(self) -> Path:
        return self.path / JOB_MANIFEST

    @property
    def rows_file(self) -> Path:
        return self.path / ROWS

    @property
    def store(self) -> Path:
        return self.path / STORE


def write_folder(path: Path, rows: Sequence[HostileRow], *, max_tokens: int = 8) -> HostileFolder:
    """Writes the rows and both manifests. All kinds of the YAML manifest read all rows."""
    columns = ("id", "text", "week", "target_lang")
    table = pa.table({name: _texts(getattr(row, name) for row in rows) for name in columns})
    pq.write_table(table, path / ROWS, row_group_size=1000)
    _write_jobs(path / JOB_MANIFEST, rows)
    lines = [
        f"store: {_quoted(STORE)}",
        'model: {id: "builtin:fake"}',
        "jobs:",
        *(_job(kind, name, max_tokens) for kind, name in JOBS.items()),
    ]
    (path / MANIFEST).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return HostileFolder(path, rows)


def _quoted(text: str) -> str:
    """A YAML scalar: what is not printable as an escape."""
    marks = (c if c.isprintable() and c not in '"\\' else f"\\U{ord(c):08x}" for c in text)
    return '"' + "".join(marks) + '"'


def _job(kind: str, name: str, max_tokens: int) -> str:
    return (
        f"  - {{name: {_quoted(name)}, kind: {kind}, input: {_quoted(ROWS)}, {_MORE[kind]}, "
        f"sampling: {{max_tokens: {max_tokens}}}, max_failed_pct: 100}}"
    )


def _write_jobs(path: Path, rows: Sequence[HostileRow]) -> None:
    columns: dict[str, Any] = {
        "job": [f"{JOBS[row.kind]} of rows" for row in rows],
        "kind": [row.kind for row in rows],
        "priority": [row.priority for row in rows],
        "max_tokens": pa.array([row.max_tokens for row in rows], pa.int64()),
    }
    for name in ("id", "text", "target_lang", "params"):
        columns[name] = _texts(getattr(row, name) for row in rows)
    pq.write_table(pa.table(columns), path, row_group_size=1000)


def _texts(cells: Iterator[Cell]) -> Any:
    """A string column with these bytes, valid UTF-8 or not."""
    raw = pa.array(list(cells), pa.binary())
    return pa.Array.from_buffers(pa.string(), len(raw), raw.buffers())
