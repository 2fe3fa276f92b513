"""Converts Arrow columns to Python values and isolates bad cells.

A cell becomes its value, None if it is null, or a `Bad` with the reason why it is unusable.
"""

import datetime
import decimal
import json
import re
import uuid
from array import array as packed_array
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, cast

import pyarrow as pa
import pyarrow.types as pt

_INT32_MAX = 2**31 - 1
# The escape of half a surrogate pair: the only way to bring a lone surrogate into UTF-8 text. No
# tokenizer accepts one.
_HALF_A_PAIR = re.compile(r"\\u[dD][89a-fA-F]")


class Use(StrEnum):
    """The use of a column; the value names the required type in messages."""

    ID = "text, a number or a date"
    TEXT = "text"
    COUNT = "whole numbers"
    PARAMS = "JSON text or a struct"
    TOKEN_IDS = "a list of whole numbers"
    ANY = "anything"


@dataclass(frozen=True, slots=True)
class Bad:
    """An unusable cell. `why` continues a sentence that begins with the column's name."""

    why: str


def fits(kind: Any, use: Use) -> bool:
    """True if a column of this Arrow type can serve the use."""
    kind = _inner_type(kind)
    return pt.is_null(kind) or _FITS[use](kind)


def read_cells(column: Any, use: Use) -> list[Any]:
    """Read an array that `fits` its use: one value, None or Bad per row."""
    column = _plain(column)
    if pt.is_null(column.type):
        return [None] * len(column)
    return _READERS[use](column)


def _is_text(kind: Any) -> bool:
    tests = (pt.is_string, pt.is_large_string, pt.is_binary, pt.is_large_binary)
    if any(test(kind) for test in tests):
        return True
    return bool(pt.is_string_view(kind) or pt.is_binary_view(kind))


def _is_id(kind: Any) -> bool:
    tests = (pt.is_integer, pt.is_floating, pt.is_decimal, pt.is_date, pt.is_timestamp)
    return _is_text(kind) or _is_uuid(kind) or any(test(kind) for test in tests)


def _is_uuid(kind: Any) -> bool:
    return str(getattr(kind, "extension_name", "")) == "arrow.uuid"


def _is_count(kind: Any) -> bool:
    # Floats count, because other tools turn an integer column with nulls into floats.
    return bool(pt.is_integer(kind) or pt.is_floating(kind))


def _is_params(kind: Any) -> bool:
    return bool(_is_text(kind) or pt.is_struct(kind) or pt.is_map(kind))


def _is_token_ids(kind: Any) -> bool:
    tests = (pt.is_list, pt.is_large_list, pt.is_fixed_size_list)
    if not any(test(kind) for test in tests):
        return False
    return bool(pt.is_integer(kind.value_type) or pt.is_null(kind.value_type))


_FITS: dict[Use, Callable[[Any], bool]] = {
    Use.ID: _is_id,
    Use.TEXT: _is_text,
    Use.COUNT: _is_count,
    Use.PARAMS: _is_params,
    Use.TOKEN_IDS: _is_token_ids,
    Use.ANY: lambda kind: True,
}


def _inner_type(kind: Any) -> Any:
    if pt.is_dictionary(kind):
        return _inner_type(kind.value_type)
    if isinstance(kind, pa.BaseExtensionType) and not _is_uuid(kind):
        return _inner_type(kind.storage_type)
    return kind


def _plain(column: Any) -> Any:
    """Remove dictionary encoding and extension types but UUID from a column."""
    while True:
        if isinstance(column, pa.ChunkedArray):
            column = column.combine_chunks()
        elif pt.is_dictionary(column.type):
            column = column.dictionary_decode()
        elif isinstance(column.type, pa.BaseExtensionType) and not _is_uuid(column.type):
            column = column.storage
        else:
            return column


def _texts(column: Any) -> list[Any]:
    kind = column.type
    if pt.is_string(kind) or pt.is_large_string(kind) or pt.is_string_view(kind):
        try:
            return list(column.to_pylist())
        except UnicodeDecodeError:
            pass  # one bad string fails its whole column, so read it again as bytes, cell by cell
    return [_decoded(cell) for cell in column.cast(pa.large_binary()).to_pylist()]


def _decoded(cell: bytes | None) -> str | Bad | None:
    if cell is None:
        return None
    try:
        return cell.decode("utf-8")
    except UnicodeDecodeError as error:
        byte = cell[error.start]
        return Bad(f"is not valid UTF-8 (byte 0x{byte:02x} at position {error.start})")


def _ids(column: Any) -> list[Any]:
    cells = _texts(column) if _is_text(column.type) else _anything(column)
    return [cell if cell is None or isinstance(cell, str) else _id_text(cell) for cell in cells]


def _id_text(cell: object) -> str | Bad | None:
    if isinstance(cell, float):
        if cell != cell:  # other tools write null as NaN
            return None
        return str(int(cell)) if cell.is_integer() else repr(cell)
    if isinstance(cell, datetime.date):
        return cell.isoformat()
    if isinstance(cell, int | decimal.Decimal | uuid.UUID):
        return str(cell)
    return cell if isinstance(cell, Bad) else Bad(f"cannot serve as id: {cell!r}")


def _counts(column: Any) -> list[Any]:
    return [_count(cell) for cell in column.to_pylist()]


def _count(cell: float | None) -> int | Bad | None:
    if cell is None or cell != cell:
        return None
    if isinstance(cell, float) and not cell.is_integer():
        return Bad(f"must be a whole number, found {cell!r}")
    return int(cell)


def _params(column: Any) -> list[Any]:
    if _is_text(column.type):
        return [_from_json(cell) if isinstance(cell, str) else cell for cell in _texts(column)]
    return [_without_nulls(cell) for cell in _anything(column)]


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


def _without_nulls(cell: Any) -> Any:
    """Drop null keys: a struct column has every key in every row."""
    if cell is None or isinstance(cell, Bad):
        return cell
    return {key: value for key, value in dict(cell).items() if value is not None}


def _token_ids(column: Any) -> list[Any]:
    return [_packed(cell) if isinstance(cell, list) else cell for cell in column.to_pylist()]


def _packed(ids: list[int | None]) -> object:
    """Pack token ids as array("i"): 4 bytes each, for runs with hundreds of millions."""
    try:
        return packed_array("i", cast(list[int], ids))
    except TypeError:
        return Bad(f"holds a null at position {ids.index(None)}")
    except OverflowError:
        large = next(t for t in ids if t is not None and not -_INT32_MAX <= t <= _INT32_MAX)
        return Bad(f"holds a token id out of range: {large}")


def _anything(column: Any) -> list[Any]:
    if _is_text(column.type):
        return _texts(column)
    try:
        return list(column.to_pylist())
    except (ValueError, OverflowError, LookupError, pa.ArrowException):
        return [_one_cell(cell) for cell in column]


def _one_cell(cell: Any) -> object:
    try:
        return cell.as_py()
    except LookupError as error:
        return Bad(f"cannot be read: unknown time zone {error}")
    except (ValueError, OverflowError, pa.ArrowException) as error:
        return Bad(f"cannot be read: {error}")


_READERS: dict[Use, Callable[[Any], list[Any]]] = {
    Use.ID: _ids,
    Use.TEXT: _texts,
    Use.COUNT: _counts,
    Use.PARAMS: _params,
    Use.TOKEN_IDS: _token_ids,
    Use.ANY: _anything,
}
