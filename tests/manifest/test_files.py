"""Rows come from globs, folders and hive folders; damaged files are named."""

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from counted_work import calls_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from thothy_batch.errors import ManifestError
from thothy_batch.manifest.inputs import FileInput
from thothy_batch.manifest.items import ItemSource, open_items
from thothy_batch.manifest.sections import JobSettings

Write = Callable[..., Path]


Open = Callable[..., ItemSource]


Text = Callable[..., Any]


def test_files_follow_each_other_sorted_and_each_once(parquet: Write, source: Open) -> None:
    for name in ("b", "a", "c"):
        parquet(f"d/{name}.parquet", id=[name], text=["t"])
    items = list(source(["d/b*.parquet", "d/*.parquet"]))
    assert [(i.item_id, i.row, i.where) for i in items] == [
        ("b", 0, "d/b.parquet row 1"),
        ("a", 1, "d/a.parquet row 1"),
        ("c", 2, "d/c.parquet row 1"),
    ]
    assert source("d/*.parquet").num_rows() == 3
    assert source("d/*.parquet", limit=2).num_rows() == 2


def test_a_folder_means_its_parquet_files(parquet: Write, source: Open, tmp_path: Path) -> None:
    parquet("d/a.parquet", id=["a"], text=["t"])
    parquet("d/deep/b.parquet", id=["b"], text=["t"])
    parquet("d/_tmp/c.parquet", id=["c"], text=["t"])
    parquet("d/.d.parquet", id=["d"], text=["t"])
    (tmp_path / "d" / "_SUCCESS").touch()
    (tmp_path / "d" / "notes.txt").write_text("x")
    assert [i.item_id for i in source("d")] == ["a", "b"]
    assert [i.item_id for i in source("d/*/*.parquet")] == ["c", "b"]
    parquet("out.parquet/part-0.parquet", id=["p"], text=["t"])
    assert [i.item_id for i in source("*.parquet")] == ["p"]


def test_a_name_that_looks_like_a_pattern_is_found(parquet: Write, source: Open) -> None:
    parquet("data[1].parquet", id=["a"], text=["t"])
    assert [i.item_id for i in source("data[1].parquet")] == ["a"]


def test_paths_may_lead_out_of_the_manifests_folder(parquet: Write, tmp_path: Path) -> None:
    parquet("data/a.parquet", id=["a"], text=["t"])
    (tmp_path / "jobs").mkdir()
    job = JobSettings(name="j", kind="k", input=FileInput.model_validate("../data/*.parquet"))
    items = open_items(job, tmp_path / "jobs", fields={"text"})
    assert [i.where for i in items] == ["../data/a.parquet row 1"]


def test_absolute_paths_work(parquet: Write, source: Open) -> None:
    path = parquet("a.parquet", id=["a"], text=["t"])
    assert [i.where for i in source(str(path))] == ["a.parquet row 1"]


def test_hive_folders_give_columns(parquet: Write, source: Open) -> None:
    parquet("h/lang=en/day=2026-01-01/a.parquet", id=["a"], text=["t"])
    parquet("h/lang=a%20b/day=__HIVE_DEFAULT_PARTITION__/a.parquet", id=["b"], text=["t"])
    items = list(source("h", fields={"text", "lang"}, optional={"day"}))
    assert [i.values for i in items] == [
        {"text": "t", "lang": "a b"},
        {"text": "t", "lang": "en", "day": "2026-01-01"},
    ]


def test_a_files_own_column_wins_over_its_folder(parquet: Write, source: Open) -> None:
    parquet("h/lang=en/a.parquet", id=["a"], text=["t"], lang=["de"])
    assert [i.values["lang"] for i in source("h", fields={"text", "lang"})] == ["de"]


def test_a_hive_folder_can_hold_the_id(parquet: Write, source: Open) -> None:
    parquet("h/id=7/a.parquet", text=["t"])
    assert [i.item_id for i in source("h")] == ["7"]


def test_a_file_without_rows_is_fine(parquet: Write, source: Open) -> None:
    parquet("a.parquet", id=pa.array([], pa.string()), text=pa.array([], pa.string()))
    assert source().check() == []
    assert list(source()) == []
    assert source().num_rows() == 0


@pytest.mark.parametrize("pattern", ["none.parquet", "no/*.parquet", "empty", "a\0b", "a" * 5000])
def test_a_glob_without_files_is_a_problem(source: Open, tmp_path: Path, pattern: str) -> None:
    (tmp_path / "empty").mkdir()
    [problem] = source(pattern).check()
    assert "no file matches" in problem.message
    assert (problem.path, problem.line) == ("m.yaml", 4)


def damaged(path: Path, how: str) -> None:
    data = path.read_bytes()
    path.write_bytes(
        {
            "empty": b"",
            "text": b"id,text\n1,a\n",
            "magic only": b"PAR1",
            "magic twice": b"PAR1PAR1",
            "cut": data[: len(data) // 2],
            "no end": data[:-4],
            "no start": b"xxxx" + data[40:],
            "footer": data[:-60] + bytes(52) + data[-8:],
        }[how]
    )


@pytest.mark.parametrize(
    "how", ["empty", "text", "magic only", "magic twice", "cut", "no end", "footer"]
)
def test_an_unreadable_file_is_a_problem_with_its_name(
    parquet: Write, source: Open, how: str
) -> None:
    damaged(parquet("a.parquet", id=["1"] * 100, text=["some text"] * 100), how)
    parquet("b.parquet", id=["1"], text=["t"])
    [problem] = source("*.parquet").check()
    assert problem.path == "a.parquet"
    assert "not a readable Parquet file" in problem.message
    assert "\n" not in problem.message
    with pytest.raises(ManifestError, match=r"a\.parquet"):
        list(source("*.parquet"))


def test_another_format_is_pointed_to_sql(source: Open, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,text\n1,a\n")
    [problem] = source("a.csv").check()
    assert "input: {sql:" in problem.hint


def test_damage_after_a_good_footer_is_an_error_of_the_file(parquet: Write, source: Open) -> None:
    texts = [random.Random(i).randbytes(30).hex() for i in range(3000)]
    path = parquet("a.parquet", id=texts, text=texts)
    data = bytearray(path.read_bytes())
    data[4:600] = bytes(596)
    path.write_bytes(bytes(data))
    assert source().check() == []
    with pytest.raises(ManifestError, match=r"a\.parquet"):
        list(source())


@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 255)), min_size=1, max_size=20))
def test_any_damage_gives_items_or_a_manifest_error(
    parquet: Write, source: Open, spots: list[tuple[int, int]]
) -> None:
    path = parquet("a.parquet", id=[f"i{i}" for i in range(50)], text=["some text"] * 50)
    data = bytearray(path.read_bytes())
    for place, byte in spots:
        data[place % len(data)] = byte
    path.write_bytes(bytes(data))
    if not source().check():
        try:
            list(source())
        except ManifestError as error:
            assert all(problem.path == "a.parquet" for problem in error.problems)  # noqa: PT017


def test_memory_does_not_grow_with_the_file(parquet: Write, source: Open) -> None:
    pick = random.Random(1)
    texts = [pick.randbytes(500).hex() for _ in range(40_000)]
    path = parquet("a.parquet", id=list(range(40_000)), text=texts)  # one row group
    assert path.stat().st_size > 20_000_000
    before = pa.total_allocated_bytes()
    most = max(pa.total_allocated_bytes() - before for item in source() if item.row % 1000 == 0)
    assert most < 8_000_000


def test_four_times_the_rows_are_four_times_the_work(parquet: Write, source: Open) -> None:
    words = [f"word{i}" for i in range(500)]
    pick = random.Random(1)
    num_calls = []
    for num in (5_000, 20_000):
        texts = [" ".join(pick.choices(words, k=40)) for _ in range(num)]
        parquet("a.parquet", id=list(range(num)), text=texts)
        found: list[int] = []
        count = partial(found.extend, (item.row for item in source() if not item.problem))
        num_calls.append(calls_of(count))
        assert len(found) == num
    few, many = num_calls
    assert few > 5_000
    assert many <= 4 * few
