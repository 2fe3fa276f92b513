"""The store's tables as data: column names, SQL types, and the conversion of values to cells.

Values are cleaned when they enter the journal. A cell that DuckDB refuses later (a lone surrogate,
NaN inside JSON, an integer out of range) would block the journal forever.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import pyarrow as pa

Cell = str | int | float | list[str] | list[int] | None
_MAX_INTEGER = 2**31 - 1
_MAX_BIGINT = 2**63 - 1


@dataclass(frozen=True, slots=True)
class CellType:
    """A column's type in SQL and in Arrow, and its conversion of a value to a journal cell."""

    sql: str
    arrow: pa.DataType
    clean: Callable[[object], Cell]


def _clean_text(value: object) -> str:
    text = value if isinstance(value, str) else str(value)
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            text = text.encode("utf-8", "replace").decode()
    return str(text)


def _clean_json(value: object) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, default=str)
    except ValueError:
        text = json.dumps(_finite(value), ensure_ascii=False, allow_nan=False, default=str)
    return _clean_text(text)


def _finite(value: object) -> object:
    """Replace numbers that JSON cannot represent with null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return value


def _whole(limit: int) -> Callable[[object], int]:
    def clean(value: object) -> int:
        number = int(value)  # type: ignore[call-overload]
        if not -limit - 1 <= number <= limit:
            raise ValueError(f"{number} does not fit its column (limit {limit})")
        return int(number)

    return clean


def _clean_double(value: object) -> float | None:
    number = float(value)  # type: ignore[arg-type]
    return number if math.isfinite(number) else None


def _clean_time(value: object) -> int:
    """Convert a datetime, ISO text or seconds to microseconds since 1970 (UTC)."""
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    if isinstance(value, datetime):
        value = value.timestamp()
    return round(float(value) * 1e6)  # type: ignore[arg-type]


def _clean_texts(value: object) -> list[str]:
    return [_clean_text(part) for part in value]  # type: ignore[attr-defined]


def _clean_ids(value: object) -> list[int]:
    ids = [int(part) for part in value]  # type: ignore[attr-defined]
    if ids and not -_MAX_INTEGER <= min(ids) <= max(ids) <= _MAX_INTEGER:
        raise ValueError("a token id does not fit a 32-bit column")
    return ids


TEXT = CellType("VARCHAR", pa.string(), _clean_text)
JSON = CellType("JSON", pa.string(), _clean_json)
INTEGER = CellType("INTEGER", pa.int32(), _whole(_MAX_INTEGER))
BIGINT = CellType("BIGINT", pa.int64(), _whole(_MAX_BIGINT))
DOUBLE = CellType("DOUBLE", pa.float64(), _clean_double)
TIME = CellType("TIMESTAMPTZ", pa.timestamp("us", tz="UTC"), _clean_time)
TEXTS = CellType("VARCHAR[]", pa.list_(pa.string()), _clean_texts)
IDS = CellType("INTEGER[]", pa.list_(pa.int32()), _clean_ids)

Columns = dict[str, CellType]

ARTIFACTS: Columns = {
    **dict.fromkeys(("artifact_id", "run_id", "job", "kind", "item_id", "variant", "text"), TEXT),
    "data": JSON,
    "verdict": TEXT,
    "flags": TEXTS,
    "finish_reason": TEXT,
    **dict.fromkeys(("prompt_tokens", "cached_prompt_tokens", "output_tokens"), INTEGER),
    "output_token_ids": IDS,
    "queue_s": DOUBLE,
    "engine_s": DOUBLE,
    "attempt": INTEGER,
    "request_key": TEXT,
    "reused_from": TEXT,
    "model": TEXT,
    "seed": BIGINT,
    "created_at": TIME,
    "wasted_tokens": INTEGER,
    "reasoning": TEXT,  # null: none was written
}

RUN_ITEMS: Columns = dict.fromkeys(
    ("run_id", "job", "item_id", "variant", "status", "reason", "artifact_id", "verdict"), TEXT
)

FAILURES: Columns = {
    **dict.fromkeys(("run_id", "job", "kind", "item_id", "variant", "code", "message"), TEXT),
    "attempt": INTEGER,
    "failed_at": TIME,
    "request_key": TEXT,
    "wasted_tokens": INTEGER,
}

RUNS: Columns = {
    **dict.fromkeys(("run_id", "name", "status", "stop_reason"), TEXT),
    "exit_code": INTEGER,
    "started_at": TIME,
    "finished_at": TIME,
    "manifest": JSON,
    "manifest_hash": TEXT,
    "model": JSON,
    "engine": JSON,
    "versions": JSON,
    "host": TEXT,
    **dict.fromkeys(("num_items", "num_done", "num_failed", "num_reused", "num_not_run"), BIGINT),
    **dict.fromkeys(("prompt_tokens", "cached_prompt_tokens"), BIGINT),
    **dict.fromkeys(("output_tokens", "wasted_tokens"), BIGINT),
    **dict.fromkeys(("load_s", "engine_s", "wall_s", "output_tokens_per_s"), DOUBLE),
    **dict.fromkeys(("artifacts_per_hour", "roofline_fraction"), DOUBLE),
    "engine_ready_at": TIME,
    "last_seen_at": TIME,
    "computed_tokens": BIGINT,
    "predicted_s": DOUBLE,
    **dict.fromkeys(("planned_prompt_tokens", "computed_prompt_tokens"), BIGINT),
}

ENGINE_STEPS: Columns = {
    "run_id": TEXT,
    "at_s": DOUBLE,
    "num_running": INTEGER,
    "num_waiting": INTEGER,
    **dict.fromkeys(("prefill_tokens", "decode_tokens", "blocks_used", "blocks_total"), BIGINT),
    "step_s": DOUBLE,
    "num_preempted": INTEGER,
}

# Events of the engine: deaths, and the requests that caused them.
ENGINE_EVENTS: Columns = {
    "run_id": TEXT,
    "happened_at": TIME,
    **dict.fromkeys(("event", "message"), TEXT),
    "num_requests": INTEGER,
    "num_tokens": BIGINT,
}

# Figures of a job, row by row as they become known: its number of entries (those missing from
# run_items were not run) and its predicted time.
JOB_ENTRIES: Columns = {
    **dict.fromkeys(("run_id", "job", "kind"), TEXT),
    "priority": INTEGER,
    "num_items": BIGINT,
    "predicted_s": DOUBLE,
}

# The entries of the run in progress, many to a row; see `open_entries`.
OPEN_ENTRIES: Columns = {
    **dict.fromkeys(("run_id", "job"), TEXT),
    **dict.fromkeys(("item_ids", "variants"), TEXTS),
}


def clean_row(columns: Columns, row: Mapping[str, object]) -> dict[str, Cell]:
    """Convert a row to journal cells without nulls. KeyError names an unknown column."""
    cells: dict[str, Cell] = {}
    for name, value in row.items():
        cell_type = columns[name]
        if value is not None:
            cells[name] = cell_type.clean(value)
    return cells


def arrow_table(columns: Columns, rows: Sequence[Mapping[str, Cell]]) -> pa.Table:
    """Convert journal cells to one Arrow table with all columns."""
    arrays = [pa.array([row.get(n) for row in rows], t.arrow) for n, t in columns.items()]
    return pa.Table.from_arrays(arrays, names=list(columns))


def now_us() -> int:
    """Return the current time as a TIME cell."""
    return round(datetime.now(UTC).timestamp() * 1e6)
