"""Parquet job manifests: rows that form jobs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from thothy_batch.errors import ManifestError, Problem
from thothy_batch.manifest.items import ItemSource, open_items
from thothy_batch.manifest.settings import Manifest, load_manifest
from thothy_batch.records import Item

Write = Callable[..., Path]


def load(folder: Path, pattern: str = "night.parquet") -> Manifest:
    path = folder / "m.yaml"
    path.write_text(f"store: s.duckdb\njobs: {{parquet: '{pattern}'}}\n", encoding="utf-8")
    return load_manifest(path)


def problems_of(folder: Path, pattern: str = "night.parquet") -> list[Problem]:
    with pytest.raises(ManifestError) as caught:
        load(folder, pattern)
    return caught.value.problems


def open_job(manifest: Manifest, name: str, **options: Any) -> ItemSource:
    [job] = [job for job in manifest.jobs if job.name == name]
    return open_items(job, manifest.base, **{"fields": {"text"}, **options})


def summary(items: list[Item]) -> list[tuple[int, str, str]]:
    return [(item.row, item.item_id, item.where) for item in items]


def test_rows_of_one_name_form_a_job(parquet: Write, tmp_path: Path) -> None:
    parquet(
        "night.parquet",
        row_group_size=2,
        job=["a", "b", "a", "a", "c"],
        kind=["summary", "hook", "summary", "summary", "my.yaml"],
        id=["1", "1", "2", "3", "1"],
        text=["t1", "u1", "t2", "t3", "v1"],
    )
    manifest = load(tmp_path)
    assert [(j.name, j.kind, j.priority) for j in manifest.jobs] == [
        ("a", "summary", 5),
        ("b", "hook", 5),
        ("c", "my.yaml", 5),
    ]
    a = open_job(manifest, "a")
    assert a.check() == []
    assert summary(list(a)) == [
        (0, "1", "night.parquet row 1"),
        (1, "2", "night.parquet row 3"),
        (2, "3", "night.parquet row 4"),
    ]
    assert [i.values["text"] for i in a] == ["t1", "t2", "t3"]
    assert [i.item_id for i in open_job(manifest, "a", limit=2)] == ["1", "2"]
    assert [i.values for i in open_job(manifest, "c")] == [{"text": "v1"}]


def test_jobs_span_files(parquet: Write, tmp_path: Path) -> None:
    parquet("n/1.parquet", job=["a", "b"], kind=["raw", "raw"], id=["1", "1"], text=["x", "y"])
    parquet("n/2.parquet", job=["a"], kind=["raw"], id=["1"], text=["z"])
    manifest = load(tmp_path, "n/*.parquet")
    assert [i.values["text"] for i in open_job(manifest, "a")] == ["x", "z"]
    assert [i.where for i in open_job(manifest, "b")] == ["n/1.parquet row 2"]


def test_rows_carry_what_is_theirs(parquet: Write, tmp_path: Path) -> None:
    parquet(
        "night.parquet",
        job=["a"] * 4,
        kind=["translation"] * 4,
        id=list("1234"),
        text=["t"] * 4,
        params=['{"language": "de"}', None, "[1]", "{"],
        priority=[3, 7, None, 12],
        max_tokens=[50, None, 0, 1],
        target_lang=["de", None, "fr", "fr"],
    )
    manifest = load(tmp_path)
    assert manifest.jobs[0].priority == 7
    items = list(open_job(manifest, "a"))
    assert items[0].values == {
        "text": "t",
        "params": {"language": "de"},
        "priority": 3,
        "max_tokens": 50,
        "target_lang": "de",
    }
    assert items[1].values == {"text": "t", "priority": 7}
    assert "params must be a JSON object" in items[2].problem
    assert "params is not valid JSON" in items[3].problem


def test_params_hold_no_half_of_a_surrogate_pair(parquet: Write, tmp_path: Path) -> None:
    cells = [r'{"language": "\ud800"}', r'{"\uDFFF": 1}', r'{"language": "\ud83d\ude00"}']
    parquet(
        "night.parquet", job=["a"] * 3, kind=["x"] * 3, id=list("123"), text=["t"] * 3, params=cells
    )
    items = list(open_job(load(tmp_path), "a"))
    assert "half of a surrogate pair" in items[0].problem
    assert "half of a surrogate pair" in items[1].problem
    assert items[2].values["params"] == {"language": "\U0001f600"}


def test_params_can_be_a_struct(parquet: Write, tmp_path: Path) -> None:
    params = [{"max_words": 5, "language": None}, {"max_words": None, "language": "de"}, None]
    parquet(
        "night.parquet",
        job=["a"] * 3,
        kind=["x"] * 3,
        id=list("123"),
        text=["t"] * 3,
        params=params,
    )
    items = list(open_job(load(tmp_path), "a"))
    assert [i.values.get("params") for i in items] == [{"max_words": 5}, {"language": "de"}, None]


def test_params_can_be_a_map(parquet: Write, tmp_path: Path) -> None:
    params = pa.array([[("language", "de")]], pa.map_(pa.string(), pa.string()))
    parquet("night.parquet", job=["a"], kind=["x"], id=["1"], text=["t"], params=params)
    [item] = open_job(load(tmp_path), "a")
    assert item.values["params"] == {"language": "de"}


def test_raw_prompts_stand_in_text(parquet: Write, tmp_path: Path) -> None:
    parquet("night.parquet", job=["a"], kind=["raw"], id=["1"], text=["t"])
    opened = open_job(load(tmp_path), "a", fields=set(), raw=True)
    assert opened.check() == []
    assert [i.values for i in opened] == [{"prompt": "t"}]


def test_a_job_of_two_kinds_is_refused_with_both(parquet: Write, tmp_path: Path) -> None:
    parquet("night.parquet", job=["a", "a"], kind=["hook", "raw"], id=["1", "2"], text=["t", "t"])
    [problem] = problems_of(tmp_path)
    assert (
        "job 'a' has kind 'raw' here and kind 'hook' in row 1 of night.parquet" in problem.message
    )
    assert problem.message.startswith("row 2:")
    assert problem.path == "night.parquet"


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ([None, "a"], "row 1: job is null"),
        (["a", ""], "row 2: job is empty"),
        (["a", "x\ny"], "row 2: job holds control characters"),
    ],
)
def test_a_row_without_a_job_is_refused(
    parquet: Write, tmp_path: Path, cells: list[str], message: str
) -> None:
    parquet("night.parquet", job=cells, kind=["raw"] * 2, id=["1", "2"], text=["t", "t"])
    assert [p.message for p in problems_of(tmp_path)] == [message]


def test_an_undecodable_job_name_is_refused(parquet: Write, tmp_path: Path) -> None:
    raw = pa.array([b"a", b"\xff"], pa.binary())
    names = pa.Array.from_buffers(pa.string(), 2, raw.buffers())
    parquet("night.parquet", job=names, kind=["raw"] * 2, id=["1", "2"], text=["t", "t"])
    [problem] = problems_of(tmp_path)
    assert problem.message.startswith("row 2: job is not valid UTF-8")


def test_many_bad_rows_are_cut_short(parquet: Write, tmp_path: Path) -> None:
    parquet("night.parquet", job=pa.nulls(5000, pa.string()), kind=["raw"] * 5000)
    assert len(problems_of(tmp_path)) == 10


def test_missing_columns_and_files_are_refused(parquet: Write, tmp_path: Path) -> None:
    parquet("night.parquet", jobs=["a"], kind=[5], id=["1"], text=["t"])
    messages = [(p.message, p.hint) for p in problems_of(tmp_path)]
    assert messages == [
        ("column 'job' is missing", "did you mean 'jobs'?"),
        ("column 'kind' must be text, found int64", ""),
    ]
    [missing] = problems_of(tmp_path, "none/*.parquet")
    assert "no file matches 'none/*.parquet'" in missing.message
    assert (missing.path, missing.line) == (str(tmp_path / "m.yaml"), 2)
    (tmp_path / "bad.parquet").write_bytes(b"PAR1")
    [bad] = problems_of(tmp_path, "bad.parquet")
    assert bad.path == "bad.parquet"


def test_a_job_manifest_without_rows_is_refused(parquet: Write, tmp_path: Path) -> None:
    empty = pa.array([], pa.string())
    parquet("night.parquet", job=empty, kind=empty, id=empty, text=empty)
    [problem] = problems_of(tmp_path)
    assert "no job" in problem.message


def test_missing_columns_of_items_are_found_by_the_check(parquet: Write, tmp_path: Path) -> None:
    parquet("night.parquet", job=["a"], kind=["summary"], id=["1"], txt=["t"])
    [problem] = open_job(load(tmp_path), "a").check()
    assert (problem.message, problem.hint) == (
        "column 'text' is missing",
        "did you mean 'txt'?",
    )


def test_every_row_belongs_to_exactly_one_job(parquet: Write, tmp_path: Path) -> None:
    names = [f"job{(i * i) % 7}" for i in range(5000)]
    ids = [str(i) for i in range(5000)]
    parquet(
        "night.parquet",
        row_group_size=1700,
        job=names,
        kind=["raw"] * 5000,
        id=ids,
        text=["t"] * 5000,
    )
    manifest = load(tmp_path)
    found = {
        item.item_id: job.name for job in manifest.jobs for item in open_job(manifest, job.name)
    }
    assert found == dict(zip(ids, names, strict=True))
