"""Damaged and changing files are named, with the part that is damaged."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from thothy_batch.errors import ManifestError, Problem
from thothy_batch.manifest.items import ItemSource

Write = Callable[..., Path]
Open = Callable[..., ItemSource]

TEXTS = [f"larch number {i:05}" for i in range(3000)]


def the_problem(opened: ItemSource) -> Problem:
    with pytest.raises(ManifestError) as caught:
        list(opened)
    [problem] = caught.value.problems
    assert caught.value.exit_code == 2
    assert "\n" not in problem.message
    return problem


def write_pages(path: Path, **options: Any) -> None:
    """Three row groups of several pages, the text in plain bytes."""
    rows = {"id": range(3000), "text": TEXTS, "other": TEXTS}
    defaults = {"compression": "none", "use_dictionary": False, "row_group_size": 1000}
    pq.write_table(pa.table(rows), path, data_page_size=4096, **{**defaults, **options})


def change(path: Path, before: bytes, after: bytes, *, which: int = 0) -> None:
    data = path.read_bytes()
    place = -1
    for _ in range(which + 1):
        place = data.index(before, place + 1)
    path.write_bytes(data[:place] + after + data[place + len(before) :])


@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_a_page_unlike_its_checksum_is_named(tmp_path: Path, source: Open, version: str) -> None:
    write_pages(
        tmp_path / "a.parquet",
        write_page_checksum=True,
        data_page_version=version,
        write_statistics=False,
    )
    change(tmp_path / "a.parquet", b"number 01500", b"number 99999")
    opened = source()
    assert opened.check() == []
    problem = the_problem(opened)
    assert problem.path == "a.parquet"
    assert problem.message.startswith("is damaged in row group 2 of 3, column 'text': ")
    assert "checksum" in problem.message
    assert problem.hint


def test_a_dictionary_unlike_its_checksum_is_named(tmp_path: Path, source: Open) -> None:
    write_pages(tmp_path / "a.parquet", write_page_checksum=True, use_dictionary=True)
    change(tmp_path / "a.parquet", b"number 00500", b"number 99999")
    assert "row group 1 of 3, column 'text'" in the_problem(source()).message


def test_columns_that_are_not_read_may_be_damaged(tmp_path: Path, source: Open) -> None:
    write_pages(tmp_path / "a.parquet", write_page_checksum=True, write_statistics=False)
    change(tmp_path / "a.parquet", b"number 01500", b"number 99999", which=1)  # in `other`
    assert [item.values["text"] for item in source()] == TEXTS
    assert "column 'other'" in the_problem(source(fields={"text", "other"})).message


@pytest.mark.few(1)
@pytest.mark.parametrize(
    "query", ["from 'a.parquet'", "select id, text from read_parquet(['*.parquet'])"]
)
def test_sql_reads_no_page_unlike_its_checksum(tmp_path: Path, source: Open, query: str) -> None:
    write_pages(tmp_path / "a.parquet", write_page_checksum=True, write_statistics=False)
    change(tmp_path / "a.parquet", b"number 01500", b"number 99999")
    [problem] = source({"sql": query}).check()
    assert "a.parquet: is damaged in row group 2 of 3, column 'text'" in problem.message


@pytest.mark.rest
def test_sql_may_leave_damaged_columns_alone(tmp_path: Path, source: Open) -> None:
    write_pages(tmp_path / "a.parquet", write_page_checksum=True, write_statistics=False)
    change(tmp_path / "a.parquet", b"number 01500", b"number 99999", which=1)
    assert source({"sql": "select id, text from 'a.parquet'"}).check() == []


def test_a_broken_page_without_checksum_is_named(tmp_path: Path, source: Open) -> None:
    write_pages(tmp_path / "a.parquet", compression="snappy")
    chunk = pq.read_metadata(tmp_path / "a.parquet").row_group(1).column(1)
    data = bytearray((tmp_path / "a.parquet").read_bytes())
    start = chunk.data_page_offset + 200
    data[start : start + 400] = b"\xff" * 400
    (tmp_path / "a.parquet").write_bytes(bytes(data))
    assert "row group 2 of 3, column 'text'" in the_problem(source()).message
    assert "a.parquet" in the_problem(source({"sql": "from 'a.parquet'"})).message


def test_a_file_without_its_first_letters_is_damaged(parquet: Write, source: Open) -> None:
    path = parquet("a.parquet", id=["1"], text=["t"])
    path.write_bytes(b"xxxx" + path.read_bytes()[4:])
    [problem] = source().check()
    assert (problem.path, problem.message) == (
        "a.parquet",
        "is not a readable Parquet file: it does not begin with the letters PAR1",
    )


def test_a_file_that_vanishes_after_the_check_is_named(parquet: Write, source: Open) -> None:
    path = parquet("a.parquet", id=["1"], text=["t"])
    opened = source("*.parquet")
    assert opened.check() == []
    path.unlink()
    assert str(the_problem(opened)) == "a.parquet: there is no such file"


@pytest.mark.parametrize("how", ["replaced", "grown", "touched"])
def test_a_file_that_changes_after_the_check_is_named(
    parquet: Write, source: Open, tmp_path: Path, how: str
) -> None:
    path = parquet("a.parquet", id=["1"], text=["t"])
    opened = source("*.parquet")
    assert opened.check() == []
    if how == "replaced":
        os.replace(parquet("new", id=["1"], text=["t"]), path)
    elif how == "grown":
        parquet("a.parquet", id=["1", "2"], text=["t", "u"])
    else:
        os.utime(path, ns=(1, 1))
    assert the_problem(opened).message == "was changed while the input was read"


def test_a_file_that_changes_while_it_is_read_is_named(parquet: Write, source: Open) -> None:
    path = parquet(
        "a.parquet", row_group_size=1024, id=list(range(5000)), text=TEXTS + TEXTS[:2000]
    )
    items = iter(source())
    next(items)
    with path.open("ab") as file:
        file.write(b"more")
    with pytest.raises(ManifestError, match=r"a\.parquet: was changed while the input was read"):
        list(items)


def test_a_job_file_that_changes_after_its_jobs_were_found_is_named(
    parquet: Write, tmp_path: Path
) -> None:
    from thothy_batch.manifest.items import open_items
    from thothy_batch.manifest.settings import load_manifest

    rows = {"kind": ["summary"] * 2, "id": ["1", "2"], "text": ["t", "u"]}
    path = parquet("night.parquet", row_group_size=1, job=["a", "a"], **rows)
    manifest = load_manifest(path)
    parquet("night.parquet", job=["b", "b"], **rows)
    opened = open_items(manifest.jobs[0], manifest.base, fields={"text"})
    assert the_problem(opened).message == "was changed while the input was read"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_without_the_right_to_read_it_is_named(parquet: Write, source: Open) -> None:
    parquet("a.parquet", id=["1"], text=["t"]).chmod(0o000)
    [problem] = source().check()
    assert str(problem).startswith("a.parquet: cannot be read: Permission denied")
