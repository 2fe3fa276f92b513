"""SQL inputs read and do nothing else: no file, no setting, no network, no other statement."""

from pathlib import Path

import duckdb
import pytest

from thothy_batch.errors import ManifestError, Problem
from thothy_batch.manifest.sql_input.rows import SqlRows, _query

COPY = "copy (select 1 as id) to 'stolen.csv'"
STATEMENTS = [
    COPY,
    "attach 'store.duckdb'",
    "attach 'new.duckdb' as new",
    "install httpfs",
    "load httpfs",
    "create table t as select 1",
    "create secret (type s3, key_id 'a', secret 'b')",
    "pragma enable_profiling",
    "set memory_limit = '1GB'",
    "set autoload_known_extensions = true",
    "export database 'dump'",
    "import database 'dump'",
    "vacuum",
    "checkpoint",
    "call enable_logging()",
    "update extensions",
    f"select 1; {COPY}",
    f"explain analyze {COPY}",
]
IN_A_SELECT = [
    f"with x as ({COPY}) select 1 as id, 'a' as text from x",
    f"with x as ({COPY}) from x",
    "with x as (insert into t values (1) returning *) from x",
    "from query('select 1')",
    "from json_execute_serialized_sql(json_serialize_sql('select 1'))",
    "from /* */ \"JSON_execute_serialized_sql\" -- \n (json_serialize_sql('select 1'))",
    "from enable_logging(storage = 'file', storage_path = 'logs')",
    "from enable_profiling()",
    "from 'https://127.0.0.1:9/a.parquet'",
    "from read_csv('http://127.0.0.1:9/a.csv')",
    "from 's3://bucket/a.parquet'",
    "from sqlite_scan('a.db', 't')",
]


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A manifest's folder with a database."""
    with duckdb.connect(tmp_path / "store.duckdb") as store:
        store.execute("create table artifacts as select 1 as id")
    (tmp_path / "a.csv").write_text("id,text\n1,x\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("sql", STATEMENTS + IN_A_SELECT)
def test_what_is_no_plain_select_is_refused_and_leaves_no_trace(folder: Path, sql: str) -> None:
    before = contents(folder)
    with pytest.raises((duckdb.Error, ValueError)) as caught:
        _query(sql, []).read_all()
    assert str(caught.value).strip()
    assert contents(folder) == before


@pytest.mark.few(1)
@pytest.mark.parametrize("sql", [COPY, IN_A_SELECT[0], "from 'https://127.0.0.1:9/a.parquet'"])
def test_a_manifest_is_told_in_one_sentence(folder: Path, sql: str) -> None:
    before = contents(folder)
    rows = SqlRows(sql, folder, Problem("job 'j': ", "m.yaml", 5))
    for ask in (rows.schema, lambda: list(rows.batches([]))):
        with pytest.raises(ManifestError) as caught:
            ask()
        [problem] = caught.value.problems
        assert problem.line == 5
        assert "\n" not in problem.message
        assert caught.value.exit_code == 2
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("sql", "rows"),
    [
        ("select id, text from 'a.csv' order by id", [{"id": 1, "text": "x"}]),
        ("select 'a query (of mine)' as query", [{"query": "a query (of mine)"}]),
        ("with t(id) as (values (2), (1)) from t order by id -- end", [{"id": 1}, {"id": 2}]),
        ("select id from 'store.duckdb'", [{"id": 1}]),
        ("select content[:2] as c from read_text('a.csv')", [{"c": "id"}]),
        ("from duckdb_secrets()", []),
    ],
)
def test_what_only_reads_still_does(folder: Path, sql: str, rows: list[object]) -> None:
    before = contents(folder)
    assert _query(sql, []).read_all().to_pylist() == rows
    assert contents(folder) == before


def test_no_database_of_the_user_is_open_to_it(folder: Path) -> None:
    (found,) = _query("select count(*) as n from duckdb_tables()", []).read_all().to_pylist()
    assert found == {"n": 0}
    names = _query("select database_name as n from duckdb_databases()", []).read_all()
    assert set(names["n"].to_pylist()) == {"memory", "system", "temp"}


def test_nothing_is_loaded_from_the_extensions_of_the_user(folder: Path) -> None:
    """An extension that an earlier program has installed would open the network again."""
    off = (
        "select name, value from duckdb_settings() where name similar to 'auto.*_known_extensions'"
    )
    settings = {r["name"]: r["value"] for r in _query(off, []).read_all().to_pylist()}
    assert settings == {
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
    }
