"""The values of a column: the same whatever stands beside it, whoever reads it, wherever."""

import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from input_types import (
    FAILS,
    REFUSED,
    USES,
    ReadOnce,
    Sample,
    arrow_samples,
    is_writable,
    outcome,
    parquet_table,
    select_samples,
    sql_samples,
    sql_table,
    write_samples,
)

from thothy_batch.canonical import canonical_text
from thothy_batch.manifest.cells import read_values
from thothy_batch.manifest.items import ItemSource

Write = Callable[..., Path]
Open = Callable[..., ItemSource]

ARROW = [sample for sample in arrow_samples() if is_writable(sample)]
SQL = sql_samples()
BERLIN = "Europe/Berlin"


@pytest.fixture(scope="module")
def by_parquet(tmp_path_factory: pytest.TempPathFactory) -> ReadOnce:
    path = tmp_path_factory.mktemp("types") / "types.parquet"
    write_samples(path, ARROW)
    return parquet_table(path)


@pytest.fixture(scope="module")
def by_sql(tmp_path_factory: pytest.TempPathFactory) -> ReadOnce:
    return sql_table(select_samples(SQL), tmp_path_factory.mktemp("sql"))


@pytest.fixture
def in_berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The machine's zone is another one, and so is its locale."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", BERLIN)
        patch.setenv("LC_ALL", "th_TH.UTF-8")
        time.tzset()
        yield
    time.tzset()


def check(sample: Sample, table: ReadOnce, column: str) -> None:
    found = outcome(table, column, "id")
    fails = sample.id == FAILS and found.startswith(f"{FAILS}: ")
    assert fails or found == sample.id, (sample.label, found)
    assert outcome(table, column, "group") == found, sample.label


def test_ids_and_groups_of_every_arrow_type(by_parquet: ReadOnce) -> None:
    for number, sample in enumerate(ARROW):
        check(sample, by_parquet, f"v{number}")


def test_ids_and_groups_of_every_duckdb_type(by_sql: ReadOnce) -> None:
    for number, sample in enumerate(SQL):
        check(sample, by_sql, f"v{number}")


def test_the_samples_hold_every_arrow_type() -> None:
    types = [sample.source.type for sample in arrow_samples()]
    tests = [name for name in dir(pa.types) if name.startswith("is_")]
    # The others look at values.
    tests = [getattr(pa.types, name) for name in tests if not name.endswith("_value")]
    assert len(tests) > 40
    assert [test.__name__ for test in tests if not any(map(test, types))] == []


def test_a_column_is_read_alike_beside_a_dictionary(tmp_path: Path) -> None:
    plain = [sample for sample in ARROW if not pa.types.is_dictionary(sample.source.type)]
    write_samples(tmp_path / "alone.parquet", plain)
    beside = pa.array(["red"]).dictionary_encode()
    write_samples(tmp_path / "beside.parquet", plain, category=beside)
    alone = parquet_table(tmp_path / "alone.parquet")
    other = parquet_table(tmp_path / "beside.parquet")
    for number, sample in enumerate(plain):
        for use in USES:
            column = f"v{number}"
            assert outcome(other, column, use) == outcome(alone, column, use), sample.label


@pytest.mark.rest
def test_sql_reads_a_parquet_file_as_the_files_reader_does(
    tmp_path: Path, by_parquet: ReadOnce
) -> None:
    write_samples(tmp_path / "a.parquet", ARROW)
    table = sql_table("from 'a.parquet'", tmp_path)
    widened = ("decimal256", "halffloat")  # DuckDB has no such types: it reads wider floats
    for number, sample in enumerate(ARROW):
        if not sample.label.startswith(widened):
            found = outcome(table, f"v{number}", "id")
            assert found == outcome(by_parquet, f"v{number}", "id"), sample.label


@pytest.mark.rest
def test_the_zone_and_the_locale_of_the_machine_change_nothing(
    tmp_path: Path, by_parquet: ReadOnce, by_sql: ReadOnce, in_berlin: None
) -> None:
    write_samples(tmp_path / "a.parquet", ARROW)
    there = parquet_table(tmp_path / "a.parquet")
    there_sql = sql_table(select_samples(SQL), tmp_path)
    for samples, here, now in ((ARROW, by_parquet, there), (SQL, by_sql, there_sql)):
        for number, sample in enumerate(samples):
            for use in ("id", "template"):
                column = f"v{number}"
                assert outcome(now, column, use) == outcome(here, column, use), sample.label


def test_a_time_made_text_in_sql_is_in_utc(source: Open, in_berlin: None) -> None:
    sql = "select (timestamptz '2026-01-05 23:30:00+00')::text as id, 't' as text"
    assert [i.item_id for i in source({"sql": sql})] == ["2026-01-05 23:30:00+00"]


@pytest.mark.parametrize("narrow", [np.float16, np.float32, np.float64])
@given(bits=st.integers(0, 2**64 - 1))
def test_a_float_has_the_shortest_text_of_its_own_width(narrow: Any, bits: int) -> None:
    size = np.dtype(narrow).itemsize
    cell = np.frombuffer(bits.to_bytes(8, "little")[:size], narrow)
    [value] = read_values(pa.array(cell))
    if np.isfinite(cell[0]) and abs(float(cell[0])) <= 2**53:
        text = canonical_text(value)
        assert narrow(float(text)) == cell[0]
        shortest = float(str(cell[0]))
        assert text == (str(int(shortest)) if shortest.is_integer() else repr(shortest))
    elif np.isnan(cell[0]):
        assert value is None


def test_whole_numbers_never_pass_through_a_float(parquet: Write, source: Open) -> None:
    large = 2**63 - 1
    parquet("a.parquet", id=pa.array([large, None, large - 1]), text=["t"] * 3)
    ids = [str(large), "row 2 of a.parquet", str(large - 1)]
    assert [i.item_id for i in source()] == ids


def test_nan_is_null_in_every_field_and_inside_lists(parquet: Write, source: Open) -> None:
    nan = float("nan")
    parquet(
        "a.parquet", id=[1.0, nan], price=[nan, 2.0], sizes=[[1.5, nan], [3.0]], note=[nan, 1.0]
    )
    first, second = source(fields={"price"}, optional={"sizes", "note"})
    assert (first.item_id, first.problem) == ("1", "price is null")
    assert first.values == {"sizes": [1.5, None]}
    assert (second.problem, second.values["note"]) == ("id is null", 1)


def test_an_infinite_number_fails_its_row(parquet: Write, source: Open) -> None:
    inf = float("inf")
    parquet("a.parquet", id=["a", "b", "c"], price=[inf, 1.0, 1.0], sizes=[[1.0], [-inf], [2.0]])
    problems = [i.problem for i in source(fields={"price"}, optional={"sizes"})]
    assert problems == ["price is infinite", "sizes is infinite", ""]


def test_bytes_are_no_ids_but_texts(parquet: Write, source: Open) -> None:
    cells = pa.array([b"ab"], pa.binary())
    parquet("a.parquet", id=cells, text=cells)
    [problem] = source().check()
    assert problem.message.startswith("column 'id' must be text, a number")
    assert "found binary (in an SQL input, decode()" in problem.message
    parquet("a.parquet", id=["1"], text=cells)
    assert [i.values["text"] for i in source()] == ["ab"]


@pytest.mark.parametrize(
    "cells",
    [
        pa.array([160, 161, None], pa.int64()),
        pa.array([160.0, 161.0, None], pa.float32()),
        pa.array([Decimal(160), Decimal(161), None], pa.decimal128(9, 0)),
        pa.array([Decimal("160.00"), Decimal("161.00"), None], pa.decimal128(9, 2)),
    ],
    ids=lambda cells: str(cells.type),
)
def test_counts_are_whole_in_whatever_type(parquet: Write, source: Open, cells: Any) -> None:
    parquet("a.parquet", id=list("abc"), text=["t"] * 3, max_tokens=cells)
    opened = source(optional={"max_tokens"})
    assert opened.check() == []
    found = [i.values.get("max_tokens") for i in opened]
    assert found == [160, 161, None]
    assert all(count is None or type(count) is int for count in found)


def test_a_count_with_a_fraction_is_named(parquet: Write, source: Open) -> None:
    cells = pa.array([Decimal("2.50")], pa.decimal128(9, 2))
    parquet("a.parquet", id=["a"], text=["t"], max_tokens=cells)
    [item] = source(optional={"max_tokens"})
    assert item.problem == "max_tokens must be a whole number, found 2.50"


def test_decimals_in_params_are_numbers(parquet: Write, source: Open) -> None:
    kind = pa.struct({"max_words": pa.decimal128(9, 0), "share": pa.decimal128(4, 2)})
    cells = pa.array([{"max_words": Decimal(5), "share": Decimal("0.50")}], kind)
    parquet("a.parquet", id=["a"], text=["t"], params=cells)
    [item] = source(optional={"params"})
    assert item.values["params"] == {"max_words": 5, "share": 0.5}
    assert type(item.values["params"]["max_words"]) is int  # type: ignore[index]


def test_a_null_or_sliced_list_reads_as_its_own_rows() -> None:
    lists = pa.array([[1.0], None, [], [2.5, None], [3.0]], pa.list_(pa.float32()))
    fixed = pa.array([[1.0, 2.0], None, [3.5, None]], pa.list_(pa.float32(), 2))
    for array in (lists, lists.cast(pa.large_list(pa.float32())), fixed):
        whole = array.to_pylist()
        for start in range(len(array) + 1):
            for end in range(start, len(array) + 1):
                assert read_values(array[start:end]) == whole[start:end]
    maps = pa.array([[("a", 1)], None, [("b", 2), ("c", None)]], pa.map_(pa.string(), pa.int8()))
    structs = pa.array([{"a": 1}, None, {"a": None}], pa.struct({"a": pa.int8()}))
    for array in (maps, structs):
        assert read_values(array[1:]) == array[1:].to_pylist()


def test_a_refused_type_is_refused_by_its_name(by_parquet: ReadOnce) -> None:
    refused = [i for i, sample in enumerate(ARROW) if sample.id == REFUSED]
    assert refused
    for number in refused:
        assert outcome(by_parquet, f"v{number}", "id") == REFUSED


def test_times_of_spark_do_not_wrap_around(tmp_path: Path, source: Open) -> None:
    times = pa.array([np.datetime64("3000-01-01T00:00:00", "us")])
    table = pa.table({"id": times, "text": ["t"]})
    pq.write_table(table, tmp_path / "a.parquet", use_deprecated_int96_timestamps=True)
    assert [i.item_id for i in source()] == ["3000-01-01T00:00:00"]
