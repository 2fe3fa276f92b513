"""SQL rows stand in the query's own order, then by id, then by content, however they arrive."""

import random
import re
from collections.abc import Callable
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from thothy_batch.manifest.items import ItemSource
from thothy_batch.manifest.sql_input.rows import _connect, _query
from thothy_batch.manifest.sql_input.tree import (
    changing_parts,
    files_named,
    in_total_order,
    parse_select,
)

Open = Callable[..., ItemSource]

ROWS = [(i, text, score) for i in (3, 1, 2, 1) for text in ("b", "a", "c") for score in (2, 1)]


@pytest.fixture
def shuffled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """shuffled(seed) writes ROWS to t.parquet in the order of the seed."""
    monkeypatch.chdir(tmp_path)

    def write(seed: int) -> None:
        rows = random.Random(seed).sample(ROWS, len(ROWS))
        columns = dict(
            zip(("id", "text", "score"), map(list, zip(*rows, strict=True)), strict=True)
        )
        pq.write_table(pa.table(columns), tmp_path / "t.parquet", row_group_size=3)

    return write


def result(sql: str, *first: str) -> list[tuple[object, ...]]:
    return [tuple(row.values()) for row in _query(sql, first).read_all().to_pylist()]


# A query, and the key by which its result must be sorted.
ORDERED = {
    "from 't.parquet'": lambda row: row,
    "select * from 't.parquet' -- all": lambda row: row,
    "select distinct * from 't.parquet'": lambda row: row,
    "select text, id from 't.parquet'": lambda row: (row[1], row[0]),
    "from 't.parquet' order by score desc": lambda row: (-row[2], row),
    "select * from 't.parquet' order by score % 2, -id": lambda row: (row[2] % 2, -row[0], row),
    "(from 't.parquet' order by score desc)": lambda row: (-row[2], row),
    "((from 't.parquet' order by score desc));": lambda row: (-row[2], row),
    "with s as (from 't.parquet') (select * from s order by score)": lambda row: (row[2], row),
    "select id, text, sum(score) as n from 't.parquet' group by all order by n": lambda row: (
        row[2],
        row,
    ),
    "from 't.parquet' union all select 0, 'z', 9": lambda row: row,
    "from 't.parquet' union all select 0, 'z', 9 order by text desc": lambda row: (
        -ord(row[1]),
        row,
    ),
    "from 't.parquet' order by all": lambda row: row,
    "select * from 't.parquet' order by text collate nocase": lambda row: (row[1], row),
    "select *, row_number() over (order by score) as n from 't.parquet' order by id": None,
    "values (3, 'a'), (1, 'b'), (2, 'c')": lambda row: row,
}


@pytest.mark.few(2)
@pytest.mark.parametrize("sql", ORDERED)
def test_rows_stand_in_the_querys_order_then_by_id_and_content(
    shuffled: Callable[[int], None], sql: str
) -> None:
    results = []
    for seed in range(3):
        shuffled(seed)
        results.append(result(sql, "id"))
    key = ORDERED[sql]
    if key is not None:
        assert results[0] == sorted(results[0], key=key)
        assert results[0] == results[1] == results[2]
    else:  # a window over ties is the query's own matter; the order of ids is not
        assert [row[0] for row in results[0]] == sorted(row[0] for row in results[0])


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("from 't.parquet' limit 3", [(1, "a", 1), (1, "a", 1), (1, "a", 2)]),
        ("from 't.parquet' limit 2 offset 22", [(3, "c", 1), (3, "c", 2)]),
        ("(from 't.parquet' limit 3)", [(1, "a", 1), (1, "a", 1), (1, "a", 2)]),
        ("from 't.parquet' order by text desc -- z\n limit 1 /* x */;", [(1, "c", 1)]),
        ("(from 't.parquet' order by text desc) limit 1", [(1, "c", 1)]),
        ("select distinct on (id) * from 't.parquet'", [(i, "a", 1) for i in (1, 2, 3)]),
        (
            "select distinct on (id) * from 't.parquet' order by id desc, text desc",
            [(i, "c", 1) for i in (3, 2, 1)],
        ),
    ],
)
def test_a_limit_takes_the_first_rows_of_that_order(
    shuffled: Callable[[int], None], sql: str, expected: list[object]
) -> None:
    for seed in range(3):
        shuffled(seed)
        assert result(sql, "id") == expected


def test_columns_that_are_read_decide_before_the_others(shuffled: Callable[[int], None]) -> None:
    shuffled(1)
    rows = result("select score, text, id from 't.parquet'", "id", "text")
    assert rows == sorted(rows, key=lambda row: (row[2], row[1], row[0]))


def test_of_equal_ids_the_first_by_content_comes_first(
    shuffled: Callable[[int], None], source: Open
) -> None:
    shuffled(1)
    opened = source({"sql": "select text, id, score from 't.parquet'"}, fields={"score", "text"})
    first: dict[str, tuple[object, object]] = {}
    for item in opened:
        first.setdefault(item.item_id, (item.values["text"], item.values["score"]))
    assert first == {"1": ("a", 1), "2": ("a", 1), "3": ("a", 1)}


def test_lists_sums_and_subqueries_do_not_depend_on_threads(tmp_path: Path) -> None:
    [(threads, zone)] = result(
        "select current_setting('threads')::int, current_setting('TimeZone')"
    )
    assert (threads, zone) == (1, "UTC")


@pytest.mark.parametrize("zone", ["Asia/Tokyo", "America/Caracas"])
def test_the_zone_of_the_process_says_nothing(monkeypatch: pytest.MonkeyPatch, zone: str) -> None:
    monkeypatch.setenv("TZ", zone)
    assert result("select (timestamptz '2026-01-05 23:30:00Z')::varchar") == [
        ("2026-01-05 23:30:00+00",)
    ]


@pytest.mark.parametrize(
    ("sql", "parts"),
    [
        ("select 1 as id, lower('A') as text, sum(2)", []),
        ("select now() as id, today() as text", ["now()", "today()"]),
        (
            "select current_date as id, x.current_date from (select 1 as current_date) x",
            ["current_date"],
        ),
        ("select 1 where random() < 0.5", ["random()"]),
        ("select (select uuid()) as id", ["uuid()"]),
        ("select age(timestamptz '2020-01-01'), '2020-01-01'::timestamp.age()", ["age()"]),
        ("select age(timestamp '2026-01-01', timestamp '2020-01-01')", []),
        ("select current_localtimestamp(), uuidv7()", ["current_localtimestamp()", "uuidv7()"]),
        ("from (values (1)) using sample 10", ["a sample without REPEATABLE"]),
        ("from (values (1)) tablesample reservoir(10 rows) repeatable (1)", []),
    ],
)
def test_what_changes_with_each_run_is_found(sql: str, parts: list[str]) -> None:
    connection = _connect()
    tree = parse_select(connection, sql)
    assert tree is not None
    assert changing_parts(connection, tree) == parts


@pytest.mark.rest
def test_what_changes_with_each_run_is_a_note_and_a_warning(
    source: Open, caplog: pytest.LogCaptureFixture
) -> None:
    opened = source({"sql": "select random()::varchar as id, 't' as text"})
    assert opened.check() == []
    assert opened.num_files is None
    [note] = opened.notes
    assert note.startswith("job 'j': SQL: random() may differ in each run")
    assert note in caplog.text


def test_statements_that_take_no_order_are_ordered_around() -> None:
    connection = _connect()
    sql = in_total_order(connection, "describe select 1 as b, 2 as a", [1])
    assert [row[0] for row in connection.sql(sql).fetchall()] == ["a", "b"]


@pytest.mark.few(3)
@pytest.mark.parametrize("sql", [sql for sql in ORDERED if "all" not in sql.split("by")[-1]])
def test_the_text_of_a_query_is_only_added_to(shuffled: Callable[[int], None], sql: str) -> None:
    shuffled(0)
    sql = sql.rstrip(";").replace(" -- all", "")
    ordered = in_total_order(duckdb.connect(), sql, [1, 2])
    assert ordered != sql
    addition = r"(, | ORDER BY )1 ASC NULLS LAST, 2 ASC NULLS LAST "
    assert re.sub(addition, "", ordered, count=1) == sql


@pytest.mark.rest
def test_sql_names_its_files_and_what_its_globs_leave_out(
    parquet: Callable[..., Path], source: Open, tmp_path: Path
) -> None:
    for name in ("data/a.parquet", "data/b.parquet", "elsewhere/c.parquet"):
        parquet(name, id=[name], text=["t"])
    (tmp_path / "data" / "linked").symlink_to("../elsewhere")
    parquet("data/D.PARQUET", id=["d"], text=["t"])
    opened = source({"sql": "from 'data/**/*.parquet'"})
    assert opened.check() == []
    assert opened.num_files == 2
    [note] = opened.notes
    assert "leaves out data/D.PARQUET, data/linked/c.parquet:" in note
    assert opened.num_rows() is None
    assert len(list(opened)) == opened.num_rows() == 2


@pytest.mark.few(1)
@pytest.mark.parametrize(
    "table", ["'*.parquet'", "read_parquet(['*.parquet'])", "'gone.csv'", "read_csv('g*.csv')"]
)
def test_sql_that_names_a_dangling_link_is_a_problem(
    source: Open, tmp_path: Path, table: str
) -> None:
    (tmp_path / "gone.parquet").symlink_to("nowhere")
    (tmp_path / "gone.csv").symlink_to("nowhere")
    [problem] = source({"sql": f"select 1 as id, 't' as text from {table}"}).check()
    assert "is a link to nowhere, which does not exist" in problem.message


@pytest.mark.parametrize(
    ("sql", "files"),
    [
        ("from 'a.parquet', \"b.csv\", t, read_json_auto('c', format => 'x')", "a.parquet b.csv c"),
        (
            "select * from read_text('d/*') join (from parquet_scan(['e', 'f'])) on 'g.csv' = x",
            "d/* e f",
        ),
        (
            "with t as (from 'h/i') select 'j.parquet' from glob('k') where x in (from 'l.tsv')",
            "l.tsv",
        ),
    ],
)
def test_the_files_of_a_query_are_found(sql: str, files: str) -> None:
    tree = parse_select(_connect(), sql)
    assert tree is not None
    assert sorted(files_named(tree)) == files.split()
