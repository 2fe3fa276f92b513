"""Converts Arrow columns to the values that a use needs and isolates bad cells.

A cell becomes its value, None if it is null, or a `Bad` with the reason why it is unusable.
"""

import json
import re
from array import array as packed_array
from collections.abc import Callable
from decimal import Decimal
from enum import StrEnum
from typing import Any, cast

import pyarrow.types as pt

from thothy_batch.canonical import canonical_text
from thothy_batch.manifest.bad_cell import Bad
from thothy_batch.manifest.cells import (
    decoded,
    is_boolean,
    is_bytes,
    is_text,
    is_uuid,
    read_values,
    value_type,
)

__all__ = ["Bad", "Use", "fits", "read_cells"]

_INT32_MAX = 2**31 - 1
# The escape of half a surrogate pair: the only way to bring a lone surrogate into UTF-8 text. No
# tokenizer accepts one.
_HALF_A_PAIR = re.compile(r"\\u[dD][89a-fA-F]")


class Use(StrEnum):
    """The use of a column; the value names the required type in messages."""

    ID = "text, a number, a date or time, true or false, or a UUID"
    GROUP = "text, a number, a date or time, true or false, or a UUID to group by"
    TEXT = "text"
    COUNT = "whole numbers"
    NUMBER = "numbers"
    PARAMS = "JSON text or a struct"
    TOKEN_IDS = "a list of whole numbers"
    ANY = "anything"


def fits(kind: Any, use: Use) -> bool:
    """True if a column of this Arrow type can serve the use."""
    kind = value_type(kind)
    return pt.is_null(kind) or _FITS[use](kind)


def read_cells(column: Any, use: Use) -> list[Any]:
    """Read an array that `fits` its use: one value, None or Bad per row.

    Ids are text. The value to group by keeps its type, but is Bad where it could be no id.
    """
    if pt.is_null(value_type(column.type)):
        return [None] * len(column)
    return [_READERS[use](value) for value in _values(column, use)]


def _values(column: Any, use: Use) -> list[Any]:
    # Token ids may be hundreds of millions, so they skip what only other types need.
    return list(decoded(column).to_pylist()) if use is Use.TOKEN_IDS else read_values(column)


def _is_text(kind: Any) -> bool:
    return is_text(kind) or is_bytes(kind)


def _is_id(kind: Any) -> bool:
    tests = (is_text, is_uuid, is_boolean, pt.is_date, pt.is_timestamp, pt.is_time)
    return _is_number(kind) or any(test(kind) for test in tests)


def _is_number(kind: Any) -> bool:
    # Floats count, because other tools turn an integer column with nulls into floats.
    return bool(pt.is_integer(kind) or pt.is_floating(kind) or pt.is_decimal(kind))


def _is_params(kind: Any) -> bool:
    return bool(_is_text(kind) or pt.is_struct(kind) or pt.is_map(kind))


def _is_token_ids(kind: Any) -> bool:
    tests = (pt.is_list, pt.is_large_list, pt.is_fixed_size_list)
    if not any(test(kind) for test in tests):
        return False
    return bool(pt.is_integer(kind.value_type) or pt.is_null(kind.value_type))


_FITS: dict[Use, Callable[[Any], bool]] = {
    Use.ID: _is_id,
    Use.GROUP: _is_id,
    Use.TEXT: _is_text,
    Use.COUNT: _is_number,
    Use.NUMBER: _is_number,
    Use.PARAMS: _is_params,
    Use.TOKEN_IDS: _is_token_ids,
    Use.ANY: lambda kind: True,
}


def _same(value: Any) -> Any:
    return value


def _id(value: Any) -> str | Bad | None:
    value = _group(value)
    return value if value is None or isinstance(value, Bad) else canonical_text(value)


def _group(value: Any) -> Any:
    # A float stays one only with a fraction, or where floats skip whole numbers.
    if isinstance(value, float) and value.is_integer():
        text = canonical_text(value)
        return Bad(f"is {text}, beyond 2^53: a float does not tell such numbers apart")
    return value


def _count(value: Any) -> int | Bad | None:
    if isinstance(value, Decimal) and value == value.to_integral_value():
        return int(value)
    if value is None or isinstance(value, int | Bad):
        return value
    return Bad(f"must be a whole number, found {canonical_text(value)}")


def _number(value: Any) -> Any:
    """Return a decimal as a whole number or a float, which all settings know."""
    if not isinstance(value, Decimal):
        return value
    whole = _count(value)
    return whole if isinstance(whole, int) else float(value)


def _params(value: Any) -> Any:
    """Return a dict without null keys: a struct column has every key in every row."""
    if value is None or isinstance(value, Bad):
        return value
    if isinstance(value, str):
        return _from_json(value)
    return {name: _number(part) for name, part in dict(value).items() if part is not None}


def _from_json(text: str) -> dict[str, object] | Bad:
    try:
        value = json.loads(text)
        if _HALF_A_PAIR.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return Bad("holds half of a surrogate pair")
    except (ValueError, RecursionError) as error:
        return Bad(f"is not valid JSON: {error}")
    return value if isinstance(value, dict) else Bad("must be a JSON object such as {}")


def _token_ids(ids: list[int | None] | None) -> object:
    """Pack token ids as array("i"): 4 bytes each, for runs with hundreds of millions."""
    if ids is None:
        return None
    try:
        return packed_array("i", cast(list[int], ids))
    except TypeError:
        return Bad(f"holds a null at position {ids.index(None)}")
    except OverflowError:
        large = next(t for t in ids if t is not None and not -_INT32_MAX <= t <= _INT32_MAX)
        return Bad(f"holds a token id out of range: {large}")


_READERS: dict[Use, Callable[[Any], Any]] = {
    Use.ID: _id,
    Use.GROUP: _group,
    Use.TEXT: _same,
    Use.COUNT: _count,
    Use.NUMBER: _number,
    Use.PARAMS: _params,
    Use.TOKEN_IDS: _token_ids,
    Use.ANY: _same,
}
