"""The canonical text of a value: one form per type, whatever wrote or read the value.

Ids, groups and templates share it. Standard library only.
"""

import datetime
import json
import math
from decimal import Decimal
from typing import Any

# Every whole number up to here is a float of its own; beyond, floats skip some.
MAX_EXACT = 2**53
_SECOND = 10**9  # in nanoseconds
_DAY = 86_400 * _SECOND


def canonical_text(value: Any) -> str:
    """Return the text of a value.

    Whole floats stand without a fraction, decimals in plain notation with their scale, times in
    ISO 8601 (those with a zone in UTC), lists and mappings as JSON, null and NaN as "".
    """
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, bool):
        return "" if value is None else str(value).lower()
    if isinstance(value, float):
        return _float_text(value)
    if isinstance(value, Decimal):
        return "" if value.is_nan() else f"{value:f}"
    if isinstance(value, datetime.date | datetime.time):
        return _time_text(value)
    if isinstance(value, datetime.timedelta):
        return duration_text(0, 0, value // datetime.timedelta(microseconds=1) * 1000)
    if isinstance(value, dict | list | tuple):
        return canonical_json(value)
    return str(value)


def canonical_json(value: Any) -> str:
    """Return JSON in one line: keys as they stand, numbers and times as `canonical_text` has them.

    Decimals are numbers with all their digits; NaN is null.
    """
    if isinstance(value, dict):
        pairs = (f"{_quoted(key)}: {canonical_json(part)}" for key, part in value.items())
        return "{" + ", ".join(pairs) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(canonical_json, value)) + "]"
    if isinstance(value, int | float | Decimal):
        return canonical_text(value) or "null"
    return "null" if value is None else _quoted(value)


def duration_text(months: int, days: int, nanoseconds: int) -> str:
    """Return an ISO 8601 duration such as P1M2DT3.5S; each part has a sign of its own."""
    if not months and not days:  # an exact time span
        days, nanoseconds = _split(nanoseconds, _DAY)
    seconds, rest = _split(nanoseconds, _SECOND)
    sign = "-" if nanoseconds < 0 else ""
    fraction = f".{abs(rest):09d}".rstrip("0") if rest else ""
    text = f"{months}M" if months else ""
    text += f"{days}D" if days else ""
    text += f"T{sign}{abs(seconds)}{fraction}S" if nanoseconds else ""
    return f"P{text or 'T0S'}"


def _split(amount: int, unit: int) -> tuple[int, int]:
    """Split an amount into whole units and a rest of the same sign."""
    sign = -1 if amount < 0 else 1
    whole, rest = divmod(abs(amount), unit)
    return sign * whole, sign * rest


def _float_text(value: float) -> str:
    if math.isnan(value):
        return ""
    return "0" if value == 0 else repr(value).removesuffix(".0")


def _time_text(value: datetime.date | datetime.time) -> str:
    if isinstance(value, datetime.datetime) and value.tzinfo is not None:
        value = value.astimezone(datetime.UTC)
    return value.isoformat()


def _quoted(value: Any) -> str:
    return json.dumps(canonical_text(value), ensure_ascii=False)
