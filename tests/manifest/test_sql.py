"""SQL inputs: paths, refusals in DuckDB's words, and what the SQL cannot reach."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from thothy_batch.errors import ManifestError
from thothy_batch.manifest.items import ItemSource

Write = Callable[..., Path]
Open = Callable[..., ItemSource]

SQL = {"sql": "select sku as id, body as text from 'data/*.parquet' where lang = 'en' order by id"}


def refusal(opened: ItemSource) -> str:
    """The one problem of a SQL input, which iterating raises as well."""
    with pytest.raises(ManifestError) as caught:
        list(opened)
    [problem] = caught.value.problems
    assert (problem.path, problem.line) == ("m.yaml", 5)
    assert "\n" not in problem.message
    return problem.message


def test_rows_of_a_select_become_items(parquet: Write, source: Open) -> None:
    parquet("data/a.parquet", sku=["b", "a", "c"], body=["1", "2", None], lang=["en", "en", "de"])
    parquet("data/b.parquet", sku=["d"], body=["4"], lang=["en"])
    opened = source(SQL)
    assert opened.check() == []
    assert opened.num_rows() is None
    items = list(opened)
    assert [(i.row, i.item_id, i.values) for i in items] == [
        (0, "a", {"text": "2"}),
        (1, "b", {"text": "1"}),
        (2, "d", {"text": "4"}),
    ]
    assert items[1].where == "SQL row 2"


def test_relative_paths_start_at_the_manifest_and_nowhere_else(
    parquet: Write, source: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parquet("a.parquet", id=["right"], text=["t"])
    parquet("elsewhere/a.parquet", id=["wrong"], text=["t"])
    parquet("elsewhere/b.parquet", id=["wrong"], text=["t"])
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert [i.item_id for i in source({"sql": "from 'a.parquet'"})] == ["right"]
    assert "No files found" in refusal(source({"sql": "from 'b.parquet'"}))
    assert Path.cwd() == tmp_path / "elsewhere"


@pytest.mark.rest
def test_a_folder_with_a_comma_is_no_trouble(source: Open, parquet: Write, tmp_path: Path) -> None:
    parquet("a,b/a.parquet", id=["1"], text=["t"])
    assert [i.item_id for i in source({"sql": "from 'a,b/*.parquet'"})] == ["1"]


@pytest.mark.rest
@pytest.mark.parametrize(
    "sql",
    [
        "-- first\nselect 1 as id, 'é;' as text\n; -- the end é",
        "with t(id, text) as (values (1, 'é;')) from t;; /* x; */",
    ],
)
def test_comments_and_a_final_semicolon_are_fine(source: Open, sql: str) -> None:
    opened = source({"sql": sql})
    assert opened.check() == []
    assert [(i.item_id, i.values) for i in opened] == [("1", {"text": "é;"})]


@pytest.mark.rest
@pytest.mark.parametrize(
    ("sql", "part"),
    [
        ("selec 1", "syntax error"),
        ("select nope from 'a.parquet'", 'Referenced column "nope" not found'),
        ("from 'none.parquet'", "No files found"),
        ("from nowhere", "nowhere"),
        ("copy (select 1) to 'out.csv'", "one SELECT and nothing else"),
        ("select 1 as id; select 2 as id", "one SELECT and nothing else"),
        ("attach 'x.duckdb'", "one SELECT and nothing else"),
        ("-- nothing", "one SELECT and nothing else"),
        ("select * from 'notes.parquet'", "notes.parquet"),
    ],
)
def test_what_duckdb_refuses_is_a_problem_before_anything_starts(
    parquet: Write, source: Open, tmp_path: Path, sql: str, part: str
) -> None:
    parquet("a.parquet", id=["1"], text=["t"])
    (tmp_path / "notes.parquet").write_text("not parquet")
    [problem] = source({"sql": sql}).check()
    assert part in problem.message
    assert not (tmp_path / "out.csv").exists()
    assert not (tmp_path / "x.duckdb").exists()


@pytest.mark.rest
def test_what_fails_on_the_way_ends_with_the_reason(source: Open) -> None:
    opened = source(
        {"sql": "select i as id, if(i = 9000, error('boom'), 'x') as text from range(9999) t(i)"}
    )
    assert opened.check() == []
    assert "boom" in refusal(opened)


@pytest.mark.rest
def test_undecodable_text_ends_with_the_reason(parquet: Write, source: Open) -> None:
    raw = pa.array([b"ok", b"\xff"], pa.binary())
    parquet("a.parquet", id=["1", "2"], text=pa.Array.from_buffers(pa.string(), 2, raw.buffers()))
    assert "UTF8" in refusal(source({"sql": "from 'a.parquet'"}))


def test_missing_columns_and_wrong_types_are_problems(source: Open) -> None:
    messages = [p.message for p in source({"sql": "select 1 as ident, 2 as text"}).check()]
    assert messages == [
        "column 'id' is missing",
        "column 'text' must be text, found int32",
    ]


def test_types_of_duckdb_serve_as_ids_and_fields(source: Open) -> None:
    sql = (
        "select 1.50::decimal(4, 2) as id, 'a'::blob as text, {'a': 1} as s, [1, 2] as l, "
        "date '2026-01-02' as d, '{\"b\": 2}'::json as params, 3::hugeint as max_tokens"
    )
    opened = source(
        {"sql": sql.replace("::hugeint", "")}, optional={"s", "l", "params", "max_tokens"}
    )
    assert opened.check() == []
    [item] = opened
    assert item.item_id == "1.50"
    assert item.values == {
        "text": "a",
        "s": {"a": 1},
        "l": [1, 2],
        "params": {"b": 2},
        "max_tokens": 3,
    }


@pytest.mark.rest
def test_the_program_itself_is_out_of_reach(source: Open) -> None:
    secret = [1]  # noqa: F841 - DuckDB would find a variable of this name
    assert "secret" in refusal(source({"sql": "select * from secret"}))
    assert "httpfs" in refusal(source({"sql": "from 'https://127.0.0.1:9/a.parquet'"}))


@pytest.mark.rest
def test_a_limit_takes_the_first_rows_of_all(source: Open) -> None:
    sql = "select 2000 - i as id, 'x' as text from range(2000) t(i)"
    assert [item.item_id for item in source({"sql": sql}, limit=3)] == ["1", "2", "3"]


_PARENT = """
import multiprocessing
import threading
import time
from pathlib import Path
from thothy_batch.errors import Problem
from thothy_batch.manifest.sql_input import SqlRows

if __name__ == "__main__":
    sql = "select sum(a.i * b.i) as id from range(10000000) a(i), range(10000000) b(i)"
    rows = SqlRows(sql, Path("."), Problem("")).batches([])
    threading.Thread(target=list, args=(rows,), daemon=True).start()
    while not multiprocessing.active_children():
        time.sleep(0.01)
    time.sleep(0.5)
    print(multiprocessing.active_children()[0].pid, flush=True)
    time.sleep(3600)
"""


@pytest.mark.rest
def test_the_query_ends_with_a_killed_parent(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(_PARENT)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, env=env) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        os.kill(child, 0)
        parent.send_signal(signal.SIGKILL)
        deadline = time.monotonic() + 120
        while _alive(child) and time.monotonic() < deadline:
            time.sleep(0.02)
        outlived = _alive(child)
        if outlived:
            os.kill(child, signal.SIGKILL)
        assert not outlived


def _alive(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rsplit(")", 1)[1].split()[0] != "Z"
