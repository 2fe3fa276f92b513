"""Tries every Arrow and DuckDB type in every use, for docs/input-types.md and the tests.

`id` of a sample is written by hand: the text that the rules give, REFUSED where no column of the
type can be an id, FAILS where only this value cannot.
"""

import datetime
import decimal
import io
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from thothy_batch.canonical import canonical_json, canonical_text
from thothy_batch.errors import Problem
from thothy_batch.kinds.templates import render_template
from thothy_batch.manifest.fields import plan_fields
from thothy_batch.manifest.files import DataFile
from thothy_batch.manifest.inputs import FileInput
from thothy_batch.manifest.items import ItemSource
from thothy_batch.manifest.sections import JobSettings
from thothy_batch.manifest.sql_input import SqlRows
from thothy_batch.manifest.tables import FileTable, NumberedBatch, SqlTable, Table

REFUSED, FAILS = "refused", "the row fails"
USES = ("id", "group", "text", "params", "template", "count")
D = decimal.Decimal
UUID = uuid.UUID("6b9a6d0e-3a30-4f43-8a1e-0123456789ab")
MOMENT = datetime.datetime(2026, 1, 5, 23, 30, 0, 250000)
NANOS = 1_767_655_800_000_000_001  # 2026-01-05T23:30:00.000000001


@dataclass(frozen=True)
class Sample:
    """One value of a type, and the id that it makes."""

    label: str
    source: Any  # an Arrow array of one value, or a SQL expression
    id: str


def _of(kind: Any, value: Any, id: str = REFUSED, label: str = "") -> Sample:
    shown = label or ("null" if value is None else _shown(value))
    return Sample(f"{_name(kind)}: {shown}", pa.array([value], kind), id)


def _name(kind: Any) -> str:
    return str(kind).replace("\n", " ").replace("|", "\\|")


def _shown(value: Any) -> str:
    return value.hex(" ") if isinstance(value, bytes) else canonical_text(value)


def _extension(kind: Any, value: Any, id: str) -> Sample:
    array = kind.wrap_array(pa.array([value], kind.storage_type))
    return Sample(f"{kind.extension_name}: {array[0].as_py()}", array, id)


def _union(kind: str) -> Sample:
    children = [pa.array([5]), pa.array(["five"])]
    types = pa.array([0], pa.int8())
    if kind == "sparse":
        made = pa.UnionArray.from_sparse(types, [child[:1] for child in children])
    else:
        made = pa.UnionArray.from_dense(types, pa.array([0], pa.int32()), children)
    return Sample(f"{kind}_union: 5", made, REFUSED)


def _numbers() -> Iterator[Sample]:
    for bits in (8, 16, 32, 64):
        low, high = -(2 ** (bits - 1)), 2**bits - 1
        yield _of(getattr(pa, f"int{bits}")(), low, str(low))
        yield _of(getattr(pa, f"uint{bits}")(), high, str(high))
    for kind in (pa.float16(), pa.float32(), pa.float64()):
        yield _of(kind, 0.1, "0.1", "0.1")
        yield _of(kind, 3.0, "3", "3.0")
        yield _of(kind, float("nan"), FAILS, "NaN")
    yield _of(pa.float32(), 202601.0, "202601", "202601.0")
    yield _of(pa.float64(), 1e-7, "1e-07", "0.0000001")
    yield _of(pa.float64(), 2.0**53, "9007199254740992", "2^53")
    yield _of(pa.float64(), 2.0**53 + 2, FAILS, "2^53 + 2")
    yield _of(pa.float64(), float("-inf"), FAILS, "-infinity")
    yield _of(pa.decimal32(9, 0), D(160), "160")
    yield _of(pa.decimal64(12, 2), D("1.50"), "1.50")
    yield _of(pa.decimal128(38, 10), D("0E-10"), "0.0000000000", "0")
    yield _of(pa.decimal128(38, 0), D(10**37), str(10**37))
    yield _of(pa.decimal256(76, 3), D("12345678901234567890.125"), "12345678901234567890.125")


def _times() -> Iterator[Sample]:
    day, clock = MOMENT.date(), MOMENT.time()
    yield _of(pa.date32(), day, "2026-01-05")
    yield _of(pa.date64(), day, "2026-01-05")
    yield _of(pa.time32("s"), clock.replace(microsecond=0), "23:30:00")
    yield _of(pa.time32("ms"), clock, "23:30:00.250000")
    yield _of(pa.time64("us"), clock, "23:30:00.250000")
    yield _of(pa.time64("ns"), 1, "00:00:00.000000001", "1 ns after midnight")
    for zone in (None, "UTC", "Europe/Berlin", "Nowhere/City"):
        behind = "" if zone is None else "+00:00"
        for unit, fraction in (("s", ""), ("ms", ".250000"), ("us", ".250000")):
            raw = pa.array([int(MOMENT.replace(tzinfo=datetime.UTC).timestamp())], pa.int64())
            scale = {"s": 1, "ms": 1000, "us": 10**6}[unit]
            cell = raw[0].as_py() * scale + scale // 4
            yield _raw(pa.timestamp(unit, zone), cell, f"2026-01-05T23:30:00{fraction}{behind}")
        text = f"2026-01-05T23:30:00.000000001{behind}"
        yield _raw(pa.timestamp("ns", zone), NANOS, text)
    yield _raw(pa.timestamp("us"), 2**62, FAILS, "the year 148107")
    for unit in ("s", "ms", "us", "ns"):
        yield _raw(pa.duration(unit), 5, "5", f"5 {unit}")
    nano = pa.month_day_nano_interval()
    yield _of(nano, pa.MonthDayNano([1, 2, 3]), REFUSED, "1 month, 2 days, 3 ns")


def _raw(kind: Any, cell: int, id: str, label: str = "") -> Sample:
    shown = label or (id.replace("+00:00", " UTC"))
    return Sample(f"{_name(kind)}: {shown}", pa.array([cell], pa.int64()).cast(kind), id)


def _texts_and_bytes() -> Iterator[Sample]:
    for kind in (pa.string(), pa.large_string(), pa.string_view()):
        yield _of(kind, "007", "007")
    yield _of(pa.string(), '{"max_words": 5}', '{"max_words": 5}')
    for kind in (pa.binary(), pa.large_binary(), pa.binary_view(), pa.binary(2)):
        yield _of(kind, b"ab")
    yield _of(pa.binary(), b"\xff")


def _nested() -> Iterator[Sample]:
    price = pa.struct({"price": pa.float32(), "made": pa.timestamp("us", "Europe/Berlin")})
    for kind in (pa.list_, pa.large_list, pa.list_view, pa.large_list_view):
        yield _of(kind(pa.float32()), [0.1, 3.0, None], REFUSED, "[0.1, 3, null]")
    yield _of(pa.list_(pa.int64(), 2), [1, 2])
    yield _of(price, {"price": 0.1, "made": MOMENT}, REFUSED, '{"price": 0.1, "made": (a time)}')
    yield _of(pa.struct({"max_words": pa.decimal128(9, 0)}), {"max_words": D(5)})
    yield _of(pa.map_(pa.string(), pa.float64()), [("max_words", 5.0)], REFUSED, "max_words = 5.0")
    yield _of(pa.dictionary(pa.int8(), pa.string()), "007", "007")
    yield _of(pa.dictionary(pa.int8(), pa.int64()), 7, "7")
    yield _of(pa.run_end_encoded(pa.int32(), pa.string()), "007", "007")
    yield from (_union("sparse"), _union("dense"))


def arrow_samples() -> list[Sample]:
    """One sample and more of every type that PyArrow makes."""
    return [
        _of(pa.null(), None, FAILS),
        _of(pa.bool_(), True, "true", "true"),
        *_numbers(),
        *_texts_and_bytes(),
        *_times(),
        *_nested(),
        _extension(pa.uuid(), UUID.bytes, str(UUID)),
        _extension(pa.json_(pa.string()), '{"max_words": 5}', '{"max_words": 5}'),
        _extension(pa.bool8(), 1, "1"),
        _extension(pa.fixed_shape_tensor(pa.int32(), [2]), [1, 2], REFUSED),
        _extension(pa.opaque(pa.int64(), "price", "shop"), 7, "7"),
    ]


_SQL: tuple[tuple[str, str], ...] = (
    ("NULL", FAILS),
    ("true", "true"),
    ("(-128)::TINYINT", "-128"),
    ("(-32768)::SMALLINT", "-32768"),
    ("(-5)::INTEGER", "-5"),
    ("(-9223372036854775808)::BIGINT", "-9223372036854775808"),
    ("255::UTINYINT", "255"),
    ("65535::USMALLINT", "65535"),
    ("4294967295::UINTEGER", "4294967295"),
    ("18446744073709551615::UBIGINT", "18446744073709551615"),
    ("170141183460469231731687303715884105727::HUGEINT", str(2**127 - 1)),
    ("340282366920938463463374607431768211455::UHUGEINT", str(2**128 - 1)),
    ("'-12345678901234567890123456789012345678901'::BIGNUM", "-" + "1234567890" * 4 + "1"),
    ("0.1::FLOAT", "0.1"),
    ("202601::FLOAT", "202601"),
    ("0.1::DOUBLE", "0.1"),
    ("202601::DOUBLE", "202601"),
    ("'nan'::DOUBLE", FAILS),
    ("'inf'::DOUBLE", FAILS),
    ("160::DECIMAL(9, 0)", "160"),
    ("1.5::DECIMAL(4, 2)", "1.50"),
    ("0::DECIMAL(38, 10)", "0.0000000000"),
    ("'007'", "007"),
    ("'007'::ENUM('7', '007')", "007"),
    (f"'{UUID}'::UUID", str(UUID)),
    ("""'{"max_words": 5}'::JSON""", '{"max_words": 5}'),
    ("'ab'::BLOB", REFUSED),
    ("'101'::BIT", "101"),
    ("DATE '2026-01-05'", "2026-01-05"),
    ("'infinity'::DATE", FAILS),
    ("TIME '23:30:00.25'", "23:30:00.250000"),
    ("'23:30:00.000000001'::TIME_NS", "23:30:00.000000001"),
    ("'01:30:00.25+02'::TIMETZ", "23:30:00.250000+00:00"),
    ("TIMESTAMP '2026-01-05 23:30:00'", "2026-01-05T23:30:00"),
    ("'2026-01-05 23:30:00'::TIMESTAMP_S", "2026-01-05T23:30:00"),
    ("'2026-01-05 23:30:00.25'::TIMESTAMP_MS", "2026-01-05T23:30:00.250000"),
    ("'2026-01-05 23:30:00.000000001'::TIMESTAMP_NS", "2026-01-05T23:30:00.000000001"),
    ("TIMESTAMPTZ '2026-01-06 00:30:00+01'", "2026-01-05T23:30:00+00:00"),
    ("'2026-01-06 00:30:00+01'::TIMESTAMPTZ_NS", "2026-01-05T23:30:00+00:00"),
    ("'infinity'::TIMESTAMP", FAILS),
    ("INTERVAL '14 months 2 days 3.5 seconds'", REFUSED),
    ("[0.1, 3]::FLOAT[]", REFUSED),
    ("[0.1, 3]::FLOAT[2]", REFUSED),
    ("[340282366920938463463374607431768211455]::UHUGEINT[]", REFUSED),
    ("{'max_words': 5::DECIMAL(9, 0)}", REFUSED),
    ("{'max_words': 2.5::FLOAT, 'bits': '101'::BIT}", REFUSED),
    ("MAP {'max_words': 5}", REFUSED),
    ("MAP {'a': 5::BIGNUM}", REFUSED),
    ("union_value(num := 5)", REFUSED),
    ("union_value(num := 5::UHUGEINT)", REFUSED),
    ("5::VARIANT", "5"),
    ("'POINT (1 2)'::GEOMETRY", "POINT (1 2)"),
)


def sql_samples() -> list[Sample]:
    """One sample and more of every type of DuckDB."""
    return [Sample(expression, expression, id) for expression, id in _SQL]


def is_writable(sample: Sample) -> bool:
    """True if PyArrow writes the sample to a Parquet file."""
    try:
        pq.write_table(pa.table({"v": sample.source}), io.BytesIO())
    except pa.ArrowException:
        return False
    return True


def write_samples(path: Path, samples: Sequence[Sample], **more: Any) -> None:
    """Write one row with a column v0, v1, ... for each sample that Parquet can hold."""
    columns = {f"v{i}": s.source for i, s in enumerate(samples) if is_writable(s)}
    pq.write_table(pa.table({"row": ["r"], **columns, **more}), path)


def select_samples(samples: Sequence[Sample]) -> str:
    return "select 'r' as row, " + ", ".join(f"{s.source} as v{i}" for i, s in enumerate(samples))


class ReadOnce:
    """A table that is read once, for many jobs."""

    def __init__(self, table: Table) -> None:
        self.label = table.label
        self.hive: Mapping[str, str | None] = {}
        self._schema = table.schema()
        self._batches = [(numbers, b) for numbers, b in table.batches(self._schema.names)]

    def schema(self) -> Any:
        return self._schema

    def num_rows(self) -> int | None:
        return None

    def batches(self, columns: Sequence[str]) -> Iterator[NumberedBatch]:
        yield from self._batches


def parquet_table(path: Path) -> ReadOnce:
    return ReadOnce(FileTable(DataFile(path, path.name)))


def sql_table(sql: str, base: Path) -> ReadOnce:
    return ReadOnce(SqlTable(SqlRows(sql, base, Problem("")), "SQL"))


def outcome(table: Table, column: str, use: str) -> str:
    """Return what a column of one row becomes in a use: a text, REFUSED, or why the row fails."""
    ours = {"template": "value", "group": "value", "count": "max_tokens"}.get(use, use)
    mapping = {ours: column} if use == "id" else {"id": "row", ours: column}
    job = JobSettings(
        name="j", kind="k", input=FileInput.model_validate("a.parquet"), columns=mapping
    )
    required = set() if use == "id" else {ours}
    plan = plan_fields(job, required, set(), False, ours if use == "group" else "")
    source = ItemSource(plan, [table], [], None)
    if source.check():
        return REFUSED
    (item,) = source
    if item.problem:
        return f"{FAILS}: {item.problem.removeprefix(column).strip()}"
    if use == "id":
        return item.item_id
    value = item.values[ours]
    if use == "template":
        return render_template("{{ value }}", {"value": value}, what="t")
    return canonical_json(value) if use == "params" else canonical_text(value)


def type_table(samples: Sequence[Sample], table: ReadOnce) -> str:
    """Return a Markdown table of the samples and what each use makes of them."""
    lines = ["| type and value | id, group | text | params | template | count |", "|---" * 6 + "|"]
    for index, sample in enumerate(samples):
        name = f"v{index}"
        cells = [sample.label.replace("|", "\\|")]
        if name not in table.schema().names:
            lines.append(f"| {cells[0]} | no Parquet file can hold it | | | | |")
            continue
        found = {use: outcome(table, name, use) for use in USES}
        assert found["group"] == found["id"], (sample.label, found)
        cells += [found[use] for use in USES if use != "group"]
        lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    if text.startswith((REFUSED, FAILS)):
        return text
    return f"`{text}`" if text else ""


def tables(folder: Path) -> dict[str, str]:
    """Return the generated parts of docs/input-types.md."""
    arrow, sql = arrow_samples(), sql_samples()
    write_samples(folder / "types.parquet", arrow)
    return {
        "parquet": type_table(arrow, parquet_table(folder / "types.parquet")),
        "sql": type_table(sql, sql_table(select_samples(sql), folder)),
    }
