"""Items from Parquet: what a row gives, what is wrong with it, and its neighbours untouched."""

from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from thothy_batch.manifest.inputs import FileInput
from thothy_batch.manifest.items import ItemSource, open_items
from thothy_batch.manifest.sections import JobSettings

Write = Callable[..., Path]


Open = Callable[..., ItemSource]


Text = Callable[..., Any]


def test_rows_become_items_in_order(parquet: Write, source: Open) -> None:
    parquet("a.parquet", sku=["x", "y"], body=["one", "two"], other=[1, 2])
    items = list(source(columns={"id": "sku", "text": "body"}))
    assert [(i.row, i.item_id, i.values, i.problem) for i in items] == [
        (0, "x", {"text": "one"}, ""),
        (1, "y", {"text": "two"}, ""),
    ]
    assert items[1].where == "a.parquet row 2"


def test_null_and_empty_texts_are_problems_of_their_rows(parquet: Write, source: Open) -> None:
    parquet("a.parquet", id=["1", "2", "3", "4"], body=[None, "", " \n\t", "ok"])
    items = list(source(columns={"text": "body"}))
    assert [i.problem for i in items] == ["body is null", "body is empty", "body is empty", ""]


def test_bad_ids_are_named_by_their_row(parquet: Write, source: Open, bad_text: Text) -> None:
    parquet("d/a.parquet", id=bad_text(b"a", b"", b"\xff"), text=["t"] * 3)
    items = list(source("d"))
    assert [(i.item_id, bool(i.problem)) for i in items] == [
        ("a", False),
        ("row 2 of d/a.parquet", True),
        ("row 3 of d/a.parquet", True),
    ]


def test_an_id_and_a_number_of_the_same_text_are_equal(parquet: Write, source: Open) -> None:
    parquet("a.parquet", id=["17"], text=["1"])
    parquet("b.parquet", id=[17], text=["2"])
    parquet("c.parquet", id=[17.0], text=["3"])
    assert [i.item_id for i in source("*.parquet")] == ["17"] * 3


def test_every_pass_starts_anew(parquet: Write, source: Open) -> None:
    parquet("a.parquet", id=["x", "y"], text=["1", "2"])
    opened = source()
    assert list(opened) == list(opened)


@pytest.mark.parametrize("limit", [1, 2, 3, 99])
def test_limit_looks_at_the_first_rows(parquet: Write, source: Open, limit: int) -> None:
    parquet("a.parquet", id=["x", None], text=["1", "2"])
    parquet("b.parquet", id=["z", "w"], text=["4", "5"])
    whole = list(source("*.parquet"))
    assert list(source("*.parquet", limit=limit)) == whole[:limit]


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.int8()),
        pa.list_(pa.uint16()),
        pa.large_list(pa.int64()),
        pa.list_(pa.uint64()),
        pa.list_(pa.int32(), 3),
    ],
    ids=str,
)
def test_token_ids_of_any_width(parquet: Write, source: Open, kind: Any) -> None:
    parquet("a.parquet", id=["1", "2"], prompt_token_ids=pa.array([[1, 2, 3], None], kind))
    opened = source(fields=set(), optional={"max_tokens"}, raw=True)
    assert opened.check() == []
    first, second = opened
    assert first.values == {"prompt_token_ids": array("i", [1, 2, 3])}
    assert second.problem == "the prompt is null"


def test_bad_token_ids_fail_their_rows(parquet: Write, source: Open) -> None:
    cells = pa.array([[1, None], [], [2**40], [-1]], pa.list_(pa.int64()))
    parquet("a.parquet", id=["1", "2", "3", "4"], prompt_token_ids=cells)
    items = list(source(fields=set(), raw=True))
    assert [i.problem for i in items] == [
        "prompt_token_ids holds a null at position 1",
        "prompt_token_ids is empty",
        f"prompt_token_ids holds a token id out of range: {2**40}",
        "",
    ]
    assert items[3].values == {"prompt_token_ids": array("i", [-1])}


def test_a_raw_prompt_is_taken_as_it_is(parquet: Write, source: Open) -> None:
    parquet("a.parquet", id=["1", "2"], p=[" \n", ""], max_tokens=[5, None])
    items = list(source(fields=set(), optional={"max_tokens"}, raw=True, columns={"prompt": "p"}))
    assert items[0].values == {"prompt": " \n", "max_tokens": 5}
    assert items[1].problem == "p is empty"


def test_of_two_raw_columns_the_one_with_a_value_counts(parquet: Write, source: Open) -> None:
    ids = pa.array([[1], None, [2], None], pa.list_(pa.int32()))
    parquet(
        "a.parquet", id=["1", "2", "3", "4"], prompt=["a", "b", None, None], prompt_token_ids=ids
    )
    items = list(source(fields=set(), raw=True))
    assert [i.values for i in items] == [
        {"prompt_token_ids": array("i", [1])},
        {"prompt": "b"},
        {"prompt_token_ids": array("i", [2])},
        {},
    ]
    assert items[3].problem == "the prompt is null"


def test_raw_without_any_prompt_column_is_a_problem(parquet: Write, source: Open) -> None:
    parquet("a.parquet", id=["1"], promt=["t"])
    [problem] = source(fields=set(), raw=True).check()
    assert problem.message == "column 'prompt' or 'prompt_token_ids' is missing"
    assert problem.hint == "did you mean 'promt'?"


def test_counts_are_whole_numbers_within_bounds(parquet: Write, source: Open) -> None:
    cells = [5.0, float("nan"), 0.0, 2.5, float("inf"), -3.0]
    parquet("a.parquet", id=list("abcdef"), text=["t"] * 6, max_tokens=cells)
    items = list(source(optional={"max_tokens"}))
    assert items[0].values["max_tokens"] == 5
    assert items[1].values == {"text": "t"}
    assert [i.problem for i in items[2:]] == [
        "max_tokens must be at least 1, found 0",
        "max_tokens must be a whole number, found 2.5",
        "max_tokens is infinite",
        "max_tokens must be at least 1, found -3",
    ]


def test_an_empty_target_language_is_a_problem(parquet: Write, source: Open) -> None:
    parquet("a.parquet", id=["1", "2", "3"], text=["t"] * 3, target_lang=["de", "", None])
    items = list(source(optional={"target_lang"}))
    assert items[0].values["target_lang"] == "de"
    assert items[1].problem == "target_lang is empty"
    assert items[2].values == {"text": "t"}


def text_column(cells: list[bytes | None]) -> Any:
    """A text column with these bytes, valid UTF-8 or not."""
    raw = pa.array(cells, pa.binary())
    return pa.Array.from_buffers(pa.string(), len(raw), raw.buffers())


CELLS = st.none() | st.binary(max_size=6) | st.text(max_size=6).map(str.encode)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.tuples(CELLS, CELLS), max_size=30))
def test_every_row_is_one_item_whatever_it_holds(
    parquet: Write, source: Open, rows: list[tuple[bytes | None, bytes | None]]
) -> None:
    parquet(
        "a.parquet",
        row_group_size=7,
        id=text_column([row[0] for row in rows]),
        text=pa.array([row[1] for row in rows], pa.binary()),
    )
    items = list(source())
    assert [i.row for i in items] == list(range(len(rows)))
    for item, (_, cell) in zip(items, rows, strict=True):
        assert item.item_id
        if not item.problem:
            assert isinstance(cell, bytes)
            assert item.values["text"] == cell.decode()


def test_the_arguments_may_be_any_set(tmp_path: Path, parquet: Write) -> None:
    parquet("a.parquet", id=["1"], text=["t"])
    job = JobSettings(name="j", kind="k", input=FileInput.model_validate("a.parquet"))
    assert len(list(open_items(job, tmp_path, fields={"text"}, optional=set(), limit=None))) == 1
