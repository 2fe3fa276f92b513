"""Reads Arrow's times and durations as Python values, to the nanosecond and without time zones.

What Python cannot hold, a time finer than microseconds or a duration in months, becomes ISO 8601
text.
"""

import datetime
from typing import Any

import pyarrow as pa
import pyarrow.types as pt

from thothy_batch.canonical import duration_text
from thothy_batch.manifest.bad_cell import Bad

_NANOSECONDS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
_DAY = 86_400 * 10**9
_EPOCH = datetime.datetime(1970, 1, 1)


def read_dates(column: Any) -> list[Any]:
    days = pt.is_date32(column.type)
    return [
        _date(cell, days) for cell in column.cast(pa.int32() if days else pa.int64()).to_pylist()
    ]


def _date(cell: int | None, days: bool) -> datetime.date | Bad | None:
    if cell is None:
        return None
    try:
        return (_EPOCH + datetime.timedelta(days=cell if days else cell // 86_400_000)).date()
    except OverflowError:
        return Bad("is a date outside the years 1 to 9999")


def read_moments(column: Any) -> list[Any]:
    # Read as numbers: the name of a zone is not in the values, and may be unknown here.
    zone = None if column.type.tz is None else datetime.UTC
    unit = _NANOSECONDS[column.type.unit]
    return [_moment(cell, unit, zone) for cell in column.cast(pa.int64()).to_pylist()]


def _moment(cell: int | None, unit: int, zone: Any) -> datetime.datetime | str | Bad | None:
    if cell is None:
        return None
    micros, rest = divmod(cell * unit, 1000)
    try:
        moment = _EPOCH.replace(tzinfo=zone) + datetime.timedelta(microseconds=micros)
    except OverflowError:
        return Bad("is a time outside the years 1 to 9999")
    return _finer(moment.isoformat(timespec="microseconds"), rest) if rest else moment


def _finer(text: str, rest: int) -> str:
    """Put the nanoseconds behind the microseconds of an ISO 8601 time."""
    whole, fraction = text.split(".")
    return f"{whole}.{fraction[:6]}{rest:03d}{fraction[6:]}"


def read_times(column: Any) -> list[Any]:
    unit = _NANOSECONDS[column.type.unit]
    width = pa.int32() if pt.is_time32(column.type) else pa.int64()
    return [_time(cell, unit) for cell in column.cast(width).to_pylist()]


def _time(cell: int | None, unit: int) -> datetime.time | str | Bad | None:
    if cell is None:
        return None
    if not 0 <= cell * unit < _DAY:
        return Bad("is no time between 00:00:00 and 23:59:59.999999999")
    micros, rest = divmod(cell * unit, 1000)
    time = (_EPOCH + datetime.timedelta(microseconds=micros)).time()
    return _finer(time.isoformat(timespec="microseconds"), rest) if rest else time


def read_durations(column: Any) -> list[Any]:
    unit = _NANOSECONDS[column.type.unit]
    return [_duration(cell, unit) for cell in column.cast(pa.int64()).to_pylist()]


def _duration(cell: int | None, unit: int) -> datetime.timedelta | str | None:
    if cell is None:
        return None
    micros, rest = divmod(cell * unit, 1000)
    try:
        whole = datetime.timedelta(microseconds=micros)
    except OverflowError:
        return duration_text(0, 0, cell * unit)
    return duration_text(0, 0, cell * unit) if rest else whole


def read_intervals(column: Any) -> list[Any]:
    return [None if cell is None else duration_text(*cell) for cell in column.to_pylist()]
