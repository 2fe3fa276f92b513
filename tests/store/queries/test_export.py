"""Exports hold what the store holds, typed where the format has types, harmless where not."""

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from thothy_batch.errors import StoreError
from thothy_batch.store.columns import ARTIFACTS
from thothy_batch.store.queries.export import format_of, write_export

NASTY = [
    "=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1",
    '=HYPERLINK("http://x","y")', 'plain "quoted", comma', "two\nlines", "'=1", "a=1", "", "日本 é",
]  # fmt: skip


@pytest.fixture
def full(harness: Any, rows: Any) -> Any:
    with harness.run("r1") as store:
        for number, text in enumerate(NASTY):
            more = {"data": [text], "flags": [text], "output_token_ids": [1, 2], "seed": -5}
            rows.add_done(store, f"{number:02d}", text=text, queue_s=-1.5, **more)
        rows.add_done(store, "=cmd", job="other", kind="hook")
        store.end_run({"status": "completed"})
    with harness.run("r2") as store:
        rows.add_done(store, "later", job="other")
        store.add(
            "run_items", {"job": "j", "item_id": "00", "status": "reused", "artifact_id": "a00"}
        )
        rows.add_failed(store, "bad")
        store.end_run({"status": "completed"})
    return harness


def test_parquet_is_typed(full: Any, tmp_path: Path) -> None:
    output = tmp_path / "out.parquet"
    assert write_export(full.path, job="j", run=None, format="parquet", output=output) == len(NASTY)
    table = pq.read_table(output)
    assert table.column_names == list(ARTIFACTS)
    types = {name: table.schema.field(name).type for name in ARTIFACTS}
    assert types["output_tokens"] == pa.int32()
    assert types["seed"] == pa.int64()
    assert types["flags"] == pa.list_(pa.string())
    assert types["output_token_ids"] == pa.list_(pa.int32())
    assert types["created_at"] == pa.timestamp("us", tz="UTC")
    assert table["text"].to_pylist() == NASTY


def test_jsonl_is_one_object_a_line(full: Any, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    write_export(full.path, job="j", run=None, format="jsonl", output=output)
    lines = output.read_text().split("\n")[:-1]
    found = [json.loads(line) for line in lines]
    assert [row["text"] for row in found] == NASTY
    assert [row["data"] for row in found] == [[text] for text in NASTY]
    assert found[0]["flags"] == [NASTY[0]]
    assert found[0]["reused_from"] is None
    assert found[0]["created_at"].endswith("Z")


def test_csv_cells_are_never_formulas(full: Any, tmp_path: Path) -> None:
    output = tmp_path / "out.csv"
    write_export(full.path, job=None, run=None, format="csv", output=output)
    with open(output, newline="") as file:
        found = list(csv.DictReader(file))
    assert len(found) == len(NASTY) + 2
    for row in found:
        numbers = {n for n, t in ARTIFACTS.items() if t.sql in ("DOUBLE", "INTEGER", "BIGINT")}
        for name, cell in row.items():
            assert name in numbers or not cell.startswith(tuple("=+-@\t\r\n")), (name, cell)
    texts = [row["text"] for row in found if row["job"] == "j"]
    assert [t.removeprefix("'") if n < 8 else t for n, t in enumerate(texts)] == NASTY
    assert texts[8:] == NASTY[8:]
    assert any(row["item_id"] == "'=cmd" for row in found)
    assert found[0]["queue_s"] == "-1.5"  # a number stays a number


def test_a_run_exports_what_it_answered(full: Any, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    assert write_export(full.path, job=None, run="r2", format="jsonl", output=output) == 2
    assert {json.loads(line)["item_id"] for line in output.read_text().splitlines()} == {
        "later",
        "00",
    }
    assert write_export(full.path, job="other", run="r2", format="jsonl", output=output) == 1


def test_the_beginning_of_a_run_id_is_enough_where_it_is_the_only_one(
    harness: Any, rows: Any, tmp_path: Path
) -> None:
    output = tmp_path / "out.jsonl"
    for run_id in ("20260101-a", "20260102-b"):
        with harness.run(run_id) as store:
            rows.add_done(store, 0)
            store.end_run({"status": "completed", "exit_code": 0})
    assert write_export(harness.path, job=None, run="20260102", format="jsonl", output=output) == 1
    with pytest.raises(StoreError, match="several runs begin with 2026"):
        write_export(harness.path, job=None, run="2026", format="jsonl", output=output)


@pytest.mark.parametrize(
    ("job", "run", "message"), [("jj", None, "no job jj"), (None, "r9", "no run r9")]
)
def test_a_misspelt_name_is_an_error_and_writes_nothing(
    full: Any, tmp_path: Path, job: Any, run: Any, message: str
) -> None:
    output = tmp_path / "out.csv"
    output.write_text("old")
    with pytest.raises(StoreError, match=message) as caught:
        write_export(full.path, job=job, run=run, format="csv", output=output)
    assert caught.value.hint
    assert output.read_text() == "old"


def test_output_may_be_a_pipe_and_must_have_a_folder(full: Any, tmp_path: Path) -> None:
    import os
    import threading

    pipe = tmp_path / "it's a pipe"
    os.mkfifo(pipe)
    got: list[bytes] = []
    thread = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    thread.start()
    write_export(full.path, job="other", run=None, format="jsonl", output=pipe)
    thread.join(10)
    assert len(got[0].splitlines()) == 2
    with pytest.raises(StoreError, match="no folder"):
        write_export(full.path, job=None, run=None, format="csv", output=tmp_path / "no" / "x.csv")
    with pytest.raises(StoreError, match="unknown format"):
        write_export(full.path, job=None, run=None, format="xlsx", output=tmp_path / "x")
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {pipe.name, full.path.name, f"{full.path.name}.journal"}


def test_the_name_tells_the_format() -> None:
    assert format_of(Path("x.PARQUET")) == "parquet"
    assert format_of(Path("x.jsonl")) == "jsonl"
    assert format_of(Path("x.txt")) is None
