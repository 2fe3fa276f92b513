"""Columns of every type: what serves, what does not, and single bad cells."""

import datetime
import decimal
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from thothy_batch.errors import ManifestError
from thothy_batch.manifest.items import ItemSource

Write = Callable[..., Path]


Open = Callable[..., ItemSource]


Text = Callable[..., Any]


STRINGS = [
    pa.string(),
    pa.large_string(),
    pa.string_view(),
    pa.binary(),
    pa.large_binary(),
    pa.dictionary(pa.int32(), pa.string()),
]


@pytest.mark.parametrize("kind", STRINGS, ids=str)
def test_every_text_type_is_text(parquet: Write, source: Open, kind: Any) -> None:
    cells = pa.array(["ä", None, "b"])
    column = cells.dictionary_encode() if pa.types.is_dictionary(kind) else cells.cast(kind)
    parquet("a.parquet", id=["1", "2", "3"], text=column)
    assert source().check() == []
    assert [i.values.get("text") for i in source()] == ["ä", None, "b"]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.binary()], ids=str)
def test_one_bad_text_fails_its_row_only(
    parquet: Write, source: Open, bad_text: Text, kind: Any
) -> None:
    parquet(
        "a.parquet",
        id=["1", "2", "3"],
        text=bad_text(b"ok", b"ab\xff", b"\xc3\xa9").cast(kind, safe=False)
        if kind != pa.binary()
        else pa.array([b"ok", b"ab\xff", b"\xc3\xa9"]),
    )
    assert source().check() == []
    items = list(source())
    assert [i.problem for i in items] == [
        "",
        "text is not valid UTF-8 (byte 0xff at position 2)",
        "",
    ]
    assert [i.values.get("text") for i in items] == ["ok", None, "é"]
    assert [i.item_id for i in items] == ["1", "2", "3"]


def test_a_bad_text_in_a_dictionary_fails_its_rows_only(
    parquet: Write, source: Open, bad_text: Text
) -> None:
    bad = pa.DictionaryArray.from_arrays(pa.array([0, 1, 0]), bad_text(b"ok", b"\xff"))
    parquet("a.parquet", id=["1", "2", "3"], text=bad)
    assert [bool(i.problem) for i in source()] == [False, True, False]


def test_a_column_of_nothing_but_null_is_read(parquet: Write, source: Open) -> None:
    parquet("a.parquet", id=["1"], text=pa.nulls(1))
    assert source().check() == []
    assert [i.problem for i in source()] == ["text is null"]


@pytest.mark.parametrize(
    ("cells", "ids"),
    [
        (pa.array([17, None], pa.int64()), "17"),
        (pa.array([17, None], pa.uint8()), "17"),
        (pa.array([17.0, float("nan")]), "17"),
        (pa.array([17.5, None]), "17.5"),
        (pa.array([decimal.Decimal("1.50"), None]), "1.50"),
        (pa.array([datetime.date(2026, 1, 2), None]), "2026-01-02"),
        (pa.array([datetime.datetime(2026, 1, 2, 3), None]), "2026-01-02T03:00:00"),
        (pa.array([uuid.UUID(int=5).bytes, None], pa.uuid()), str(uuid.UUID(int=5))),
        (pa.array([True, None]), "true"),
    ],
    ids=lambda value: str(getattr(value, "type", value)),
)
def test_ids_of_other_types_become_text(parquet: Write, source: Open, cells: Any, ids: str) -> None:
    parquet("a.parquet", id=cells, text=["t", "t"])
    assert source().check() == []
    first, second = source()
    assert (first.item_id, first.problem) == (ids, "")
    assert (second.item_id, second.problem) == ("row 2 of a.parquet", "id is null")


def test_a_missing_column_is_reported_with_the_nearest(parquet: Write, source: Open) -> None:
    parquet("a.parquet", ID=["1"], body=["t"])
    by_name = {p.message: p for p in source(columns={"text": "boddy"}).check()}
    assert by_name["column 'id' is missing"].hint == "did you mean 'ID'?"
    assert by_name["column 'boddy' is missing"].hint == "did you mean 'body'?"
    assert by_name["column 'boddy' is missing"].path == "a.parquet"
    with pytest.raises(ManifestError, match="boddy"):
        list(source(columns={"text": "boddy"}))


def test_a_column_without_a_neighbour_lists_all(parquet: Write, source: Open) -> None:
    parquet("a.parquet", id=["1"], zzz=["t"])
    [problem] = source().check()
    assert "id, zzz" in problem.hint


def test_the_same_fault_of_many_files_is_reported_once(parquet: Write, source: Open) -> None:
    for i in range(5):
        parquet(f"d/{i}.parquet", id=["1"], body=["t"])
    parquet("d/9.parquet", id=["1"], text=["t"])
    [problem] = source("d").check()
    assert problem.message.endswith("the same in 4 more of the job's files")
    assert problem.path == "d/0.parquet"


@pytest.mark.parametrize(
    ("field", "cells", "message"),
    [
        ("text", [1.5], "column 'text' must be text, found double"),
        ("text", [True], "column 'text' must be text, found bool"),
        ("text", [17], "column 'text' must be text, found int64"),
        ("text", [["a"]], "column 'text' must be text, found list"),
        ("id", [b"a"], "column 'id' must be text, a number, a date or time, true or false, or a"),
        ("id", [["a"]], "column 'id' must be"),
        ("max_tokens", ["5"], "column 'max_tokens' must be whole numbers, found string"),
        ("prompt_token_ids", ["5"], "must be a list of whole numbers"),
        ("prompt_token_ids", [[1.5]], "must be a list of whole numbers"),
        ("params", [5], "must be JSON text or a struct"),
    ],
)
def test_a_wrong_type_names_column_file_found_and_wanted(
    parquet: Write, source: Open, field: str, cells: list[Any], message: str
) -> None:
    columns: dict[str, Any] = {"id": ["1"], "text": ["t"], field: cells}
    parquet("a.parquet", **columns)
    [problem] = source(optional={"max_tokens", "prompt_token_ids", "params"}).check()
    assert message in problem.message
    assert problem.path == "a.parquet"


def test_a_column_that_stands_twice_is_a_problem(source: Open, tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array(["1"])] * 3, names=["id", "text", "text"])
    pq.write_table(table, tmp_path / "a.parquet")
    [problem] = source().check()
    assert "column 'text' stands 2 times" in problem.message


def test_a_mapping_of_an_unknown_name_is_a_problem(parquet: Write, source: Open) -> None:
    parquet("a.parquet", id=["1"], text=["t"])
    [problem] = source(columns={"txt": "text"}).check()
    assert "columns names 'txt'" in problem.message
    assert (problem.hint, problem.line) == ("did you mean 'text'?", 6)


def test_other_fields_keep_their_values(parquet: Write, source: Open) -> None:
    parquet(
        "a.parquet",
        id=["1", "2"],
        price=[1.5, None],
        tags=[["a", "b"], []],
        made=[datetime.date(2026, 1, 2), None],
        note=[None, "n"],
    )
    first, second = source(fields={"price", "tags"}, optional={"made", "note", "absent"})
    assert first.values == {"price": 1.5, "tags": ["a", "b"], "made": datetime.date(2026, 1, 2)}
    assert second.problem == "price is null"
    assert second.values == {"tags": [], "note": "n"}


def test_a_bad_text_deep_in_a_list_fails_its_row_only(
    parquet: Write, source: Open, bad_text: Text
) -> None:
    tags = pa.ListArray.from_arrays([0, 1, 2, 2], bad_text(b"\xff", b"ok"))
    parquet("a.parquet", id=["1", "2", "3"], tags=tags)
    items = list(source(fields={"tags"}))
    assert [bool(i.problem) for i in items] == [True, False, False]
    assert items[1].values == {"tags": ["ok"]}


@pytest.mark.parametrize("name", ["id", "week"])
def test_a_time_zone_that_is_unknown_here_changes_nothing(
    parquet: Write, source: Open, name: str
) -> None:
    times = pa.array([0, 1], pa.timestamp("us", "Nowhere/City"))
    parquet("a.parquet", **{"id": ["1", "2"], "text": ["a", "b"], name: times})
    items = list(source(fields={"text", "week"} if name == "week" else {"text"}))
    assert [i.problem for i in items] == ["", ""]
    if name == "id":
        assert items[0].item_id == "1970-01-01T00:00:00+00:00"
    else:
        assert items[0].values["week"] == datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
