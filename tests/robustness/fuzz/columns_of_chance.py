"""Parquet tables with columns of any type under the names that jobs read, and broken files."""

import datetime
import decimal
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

Make = Callable[[Sequence[Any], int], Any]

_TEXTS = (
    *("a", "b", "a", "", "  ", "fine text", "a#2", "row 1 of rows.parquet", "NULL", "\0", "a\0b"),
    *("\u202e\u0378", "\U0001f40d", "x" * 5000, "\x1b[31m", "line\nline", "{{ 1 / 0 }}", "de"),
    *('{"max_words": 5}', '{"variants": 2}', '{"x": NaN}', "{", "[]", '{"max_words": 1e400}'),
    *('{"language": "\\ud800"}', '{"target_langs": ["de", "de", "\\ud800"]}', "[" * 5000),
    *(
        '{"max_words": 1' + "0" * 350 + "}",
        '{"temperature": 1' + "0" * 350 + "}",
        '{"group_by": 1}',
    ),
    *('{"max_words": ' + "9" * 5000 + "}", '{"language": {}}', '{"\\ud800": 1}', "\U0010ffff"),
)
_BYTES = (b"fine", b"", b"\xff\xfe", b"\xed\xa0\x80", b"ab\xc3", b"\0", b'{"max_words": 5}')
_WHOLE = (0, 1, 1, 2, 5, -1, 127)
_FLOATS = (0.0, 1.0, 2.5, -1.0, float("nan"), float("inf"), -0.0, 1e30)
_DATES = (-719162, 0, 2932896, 10**9)  # days: years 1 to 9999, and one beyond
_TIMES = (0, 1, -(2**62), 2**62, 10**9)
_IDS = ([1, 2], [], [None], [300], [-1], [2**31 - 1], [0, 255])


def _of(kind: Any, cells: Sequence[Any]) -> Make:
    def make(picks: Sequence[Any], num: int) -> Any:
        values = [None if i is None else cells[i % len(cells)] for i in picks[:num]]
        return pa.array(values, kind)

    return make


def _bad_text(picks: Sequence[Any], num: int) -> Any:
    raw = _of(pa.binary(), _BYTES)(picks, num)
    return pa.Array.from_buffers(pa.string(), len(raw), raw.buffers(), offset=raw.offset)


def _cast(make: Make, kind: Any) -> Make:
    return lambda picks, num: make(picks, num).cast(kind)


def _encoded(make: Make) -> Make:
    return lambda picks, num: make(picks, num).dictionary_encode()


_TEXT, _BINARY = _of(pa.string(), _TEXTS), _of(pa.binary(), _BYTES)
_STRUCT = pa.struct([("max_words", pa.int64()), ("variants", pa.float64()), ("x", pa.string())])
_DECIMALS = (decimal.Decimal("1.50"), decimal.Decimal("-7.00"), decimal.Decimal("99999.99"))
TYPES: Mapping[str, Make] = {
    "text": _TEXT,
    "large text": _of(pa.large_string(), _TEXTS),
    "bad text": _bad_text,
    "binary": _BINARY,
    "large binary": _of(pa.large_binary(), _BYTES),
    "fixed binary": _of(pa.binary(2), (b"ab", b"\xff\xff", b"\0\0")),
    "dictionary": _encoded(_TEXT),
    "binary dictionary": _encoded(_BINARY),
    "null": lambda picks, num: pa.nulls(num),
    "bool": _of(pa.bool_(), (True, False)),
    **{f"int {kind}": _of(kind, _WHOLE) for kind in (pa.int8(), pa.int32(), pa.int64())},
    "unsigned": _of(pa.uint64(), (0, 1, 2**64 - 1)),
    "half": _cast(_of(pa.float32(), (0.0, 1.0, 2.5, float("nan"), float("inf"))), pa.float16()),
    **{f"{kind}": _of(kind, _FLOATS) for kind in (pa.float32(), pa.float64())},
    "decimal": _of(pa.decimal128(7, 2), _DECIMALS),
    "wide decimal": _of(pa.decimal256(50, 2), _DECIMALS),
    "date": _cast(_of(pa.int32(), _DATES), pa.date32()),
    **{
        f"{kind}": _cast(_of(pa.int64(), _TIMES), kind)
        for kind in (
            *(pa.timestamp("ms"), pa.timestamp("us"), pa.timestamp("ns")),
            *(pa.timestamp("us", "UTC"), pa.timestamp("us", "Nowhere/City"), pa.duration("us")),
        )
    },
    "time": _of(pa.time64("us"), (datetime.time(6), datetime.time.max)),
    "token ids": _of(pa.list_(pa.int32()), _IDS),
    "large ids": _of(pa.large_list(pa.int64()), (*_IDS, [2**40])),
    "pairs": _of(pa.list_(pa.int32(), 2), ([1, 2], [300, -1])),
    "texts": _of(pa.list_(pa.string()), (["a"], [], [None])),
    "lists": _of(pa.list_(pa.list_(pa.int8())), ([[1]], [[]], [None])),
    "no lists": _of(pa.list_(pa.null()), ([], [None])),
    "struct": _of(_STRUCT, ({"max_words": 5}, {"variants": float("nan")}, {"x": "y"}, {})),
    "map": _of(pa.map_(pa.string(), pa.int64()), ([("max_words", 5)], [], [("x", None)])),
}
_RIGHT = {
    **dict.fromkeys(("id", "text", "prompt", "target_lang", "job", "week"), "text"),
    **{"prompt_token_ids": "token ids", "max_tokens": "int int32", "priority": "int int8"},
    **{"params": "struct", "kind": "kind"},
}
_KINDS = _of(pa.string(), ("summary", "summary", "summary", "raw", "", "nowhere", "own.yaml"))
_MORE_NAMES = ("", "a.b", "text.x", "ID", "text", "id", "x\ny", "\U0001f40d")


@dataclass(frozen=True)
class _Column:
    name: str
    type: str
    picks: tuple[int | None, ...]


def tables(*names: str, more: Sequence[str] = ()) -> st.SearchStrategy[bytes]:
    """Parquet files with most of the named columns, each of its own type more often than not."""
    picks = st.lists(st.one_of(st.integers(0, 40), st.integers(0, 40), st.none()), min_size=6)
    usual = [_columns(st.just(name), picks, st.just(_RIGHT[name])) for name in names]
    odd = [_columns(st.just(name), picks, st.sampled_from(list(TYPES))) for name in names]
    each = [
        st.one_of(right, right, right, any_type) for right, any_type in zip(usual, odd, strict=True)
    ]
    others = st.sampled_from([*more, *_MORE_NAMES])
    extra = st.lists(_columns(others, picks, st.sampled_from(list(TYPES))), max_size=2)
    kept = st.lists(st.sampled_from(range(len(names))), max_size=1)
    return st.builds(_file, st.tuples(*each), extra, kept, st.integers(0, 6), _options())


def every_cell(name: str, type_name: str, **others: str) -> bytes:
    """A file with all cells that a type has in one column, and the same text in all others."""
    num = len(_TEXTS)
    arrays = {key: pa.array([value] * num) for key, value in others.items()}
    arrays = {"id": pa.array(range(num)), **arrays, name: TYPES[type_name]([*range(num)], num)}
    buffer = io.BytesIO()
    pq.write_table(pa.table(arrays), buffer, row_group_size=10)
    return buffer.getvalue()


def _columns(names: Any, picks: Any, types: Any) -> st.SearchStrategy[_Column]:
    return st.builds(
        lambda name, kind, cells: _Column(name, kind, tuple(cells)), names, types, picks
    )


def _options() -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {
            "row_group_size": st.sampled_from([1, 2, 100]),
            "use_dictionary": st.booleans(),
            "compression": st.sampled_from(["none", "snappy", "zstd"]),
            "store_schema": st.booleans(),
            "data_page_version": st.sampled_from(["1.0", "2.0"]),
        }
    )


def _file(
    each: Sequence[_Column],
    extra: Sequence[_Column],
    left_out: Sequence[int],
    num_rows: int,
    options: dict[str, Any],
) -> bytes:
    columns = [column for i, column in enumerate(each) if i not in left_out] + list(extra)
    arrays = [_array(column, num_rows) for column in columns]
    table = pa.Table.from_arrays(arrays, names=[column.name for column in columns])
    buffer = io.BytesIO()
    pq.write_table(table, buffer, **options)
    return buffer.getvalue()


def _array(column: _Column, num_rows: int) -> Any:
    make = _KINDS if column.type == "kind" else TYPES[column.type]
    return make([*column.picks, *range(num_rows)][:num_rows], num_rows)
