"""Reads Arrow columns as Python values that depend on nothing but the cell.

Dictionary and run-end encoding are no part of a value; neither are the width of its type, its unit
of time, the name of its time zone, nor the tool that wrote it. NaN is null.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from thothy_batch.canonical import MAX_EXACT
from thothy_batch.manifest.bad_cell import Bad
from thothy_batch.manifest.times import (
    read_dates,
    read_durations,
    read_intervals,
    read_moments,
    read_times,
)

# Extension types with values of their own; the others are names for another type.
_OWN_VALUES = ("arrow.uuid", "arrow.bool8")


def value_type(kind: Any) -> Any:
    """Return the type of a column's values, without encodings and extension types."""
    if pt.is_dictionary(kind) or pt.is_run_end_encoded(kind):
        return value_type(kind.value_type)
    if isinstance(kind, pa.BaseExtensionType) and kind.extension_name not in _OWN_VALUES:
        return value_type(kind.storage_type)
    return kind


def is_text(kind: Any) -> bool:
    """True for UTF-8 text."""
    return bool(pt.is_string(kind) or pt.is_large_string(kind) or pt.is_string_view(kind))


def is_bytes(kind: Any) -> bool:
    """True for bytes of any length."""
    tests = (pt.is_binary, pt.is_large_binary, pt.is_binary_view, pt.is_fixed_size_binary)
    return any(test(kind) for test in tests)


def is_uuid(kind: Any) -> bool:
    return str(getattr(kind, "extension_name", "")) == "arrow.uuid"


def is_boolean(kind: Any) -> bool:
    return bool(pt.is_boolean(kind)) or getattr(kind, "extension_name", "") == "arrow.bool8"


def read_values(column: Any) -> list[Any]:
    """Return one value, None or Bad per row of an array of any type.

    Whole floats are ints up to 2^53, narrower floats the shortest number that their own width
    tells apart. Times with a zone are in UTC, those finer than microseconds text; durations of
    the calendar are text. Bytes are decoded as UTF-8. Lists are lists, structs dicts, maps lists
    of pairs; a bad part makes the whole cell bad.
    """
    column = decoded(column)
    for fits, read in _READERS:
        if fits(column.type):
            return read(column)
    return _as_they_are(column)


def decoded(column: Any) -> Any:
    """Return an array without encodings and extension types."""
    while True:
        if isinstance(column, pa.ChunkedArray):
            column = column.combine_chunks()
        elif pt.is_dictionary(column.type):
            column = column.dictionary_decode()
        elif pt.is_run_end_encoded(column.type):
            column = pc.run_end_decode(column)
        elif column.type != value_type(column.type):
            column = column.storage
        else:
            return column


def _texts(column: Any) -> list[Any]:
    if is_text(column.type):
        try:
            return list(column.to_pylist())
        except UnicodeDecodeError:
            # One bad string fails its whole column, so read it again as bytes, cell by cell.
            column = column.cast(pa.large_binary())
    return [_text(cell) for cell in column.to_pylist()]


def _text(cell: bytes | None) -> str | Bad | None:
    if cell is None:
        return None
    try:
        return cell.decode("utf-8")
    except UnicodeDecodeError as error:
        byte = cell[error.start]
        return Bad(f"is not valid UTF-8 (byte 0x{byte:02x} at position {error.start})")


def _floats(column: Any) -> list[Any]:
    narrow: Any = {pa.float16(): np.float16, pa.float32(): np.float32}.get(column.type)
    return [_float(cell, narrow) for cell in column.to_pylist()]


def _float(cell: Any, narrow: Any) -> float | Bad | None:
    if cell is None or cell != cell:  # other tools write null as NaN
        return None
    value = float(cell) if narrow is None else float(str(narrow(cell)))
    if value in (float("inf"), float("-inf")):
        return Bad("is infinite")
    return int(value) if value.is_integer() and abs(value) <= MAX_EXACT else value


def _lists(column: Any) -> list[Any]:
    spans = list(_spans(column))
    first = min((start for start, _ in spans), default=0)
    last = max((end for _, end in spans), default=0)
    inside = column.values.slice(first, max(0, last - first))
    values = read_values(inside)
    return _cells(column, (values[start - first : end - first] for start, end in spans))


def _spans(column: Any) -> Iterator[tuple[int, int]]:
    """Yield where each row's part of `values` starts and ends; (0, 0) where there is none."""
    if pt.is_fixed_size_list(column.type):
        size = column.type.list_size
        starts = range(column.offset * size, (column.offset + len(column)) * size, size or 1)
        yield from ((start, start + size) for start in starts)
        return
    starts = column.offsets.to_pylist()
    if pt.is_list_view(column.type) or pt.is_large_list_view(column.type):
        yield from ((s, s + n) for s, n in zip(starts, column.sizes.to_pylist(), strict=True))
    else:
        yield from zip(starts[:-1], starts[1:], strict=True)


def _maps(column: Any) -> list[Any]:
    offsets = column.offsets.to_pylist()
    pairs = list(zip(read_values(column.keys), read_values(column.items), strict=True))
    return _cells(column, (pairs[a:b] for a, b in zip(offsets[:-1], offsets[1:], strict=True)))


def _structs(column: Any) -> list[Any]:
    names = [field.name for field in column.type]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        return [Bad(f"has the field {twice!r} twice")] * len(column)
    fields = [read_values(column.field(index)) for index in range(len(names))]
    rows = zip(*fields, strict=True) if fields else ((),) * len(column)
    return _cells(column, (dict(zip(names, row, strict=True)) for row in rows))


def _cells(column: Any, parts: Any) -> list[Any]:
    """Return each row's list or dict; None where the row is null, Bad where a part of it is."""
    valid = column.is_valid().to_pylist()
    return [_whole(part) if ok else None for part, ok in zip(parts, valid, strict=True)]


def _whole(part: Any) -> Any:
    inside = part.values() if isinstance(part, dict) else part
    for value in inside:
        if isinstance(value, Bad):
            return value
        if isinstance(value, tuple):
            bad = next((half for half in value if isinstance(half, Bad)), None)
            if bad is not None:
                return bad
    return part


def _unions(column: Any) -> list[Any]:
    return [read_values(pa.repeat(cell.value, 1))[0] for cell in column]


def _as_they_are(column: Any) -> list[Any]:
    try:
        return list(column.to_pylist())
    except (ValueError, OverflowError, pa.ArrowException):
        return [_as_it_is(cell) for cell in column]


def _as_it_is(cell: Any) -> object:
    try:
        return cell.as_py()
    except (ValueError, OverflowError, pa.ArrowException) as error:
        return Bad(f"cannot be read: {error}")


def _is_list(kind: Any) -> bool:
    tests = (
        pt.is_list, pt.is_large_list, pt.is_fixed_size_list, pt.is_list_view, pt.is_large_list_view,
    )  # fmt: skip
    return any(test(kind) for test in tests)


_READERS: tuple[tuple[Callable[[Any], bool], Callable[[Any], list[Any]]], ...] = (
    (lambda kind: is_text(kind) or is_bytes(kind), _texts),
    (pt.is_floating, _floats),
    (pt.is_date, read_dates),
    (pt.is_timestamp, read_moments),
    (pt.is_time, read_times),
    (pt.is_duration, read_durations),
    (pt.is_interval, read_intervals),
    (pt.is_map, _maps),
    (_is_list, _lists),
    (pt.is_struct, _structs),
    (pt.is_union, _unions),
)
