"""Items, their order and their request keys do not depend on any number of threads or processes."""

import os
import random
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from thothy_batch.manifest.settings import load_manifest
from thothy_batch.manifest.sql_input import rows as sql_rows
from thothy_batch.runner.entries import prepare
from thothy_batch.runner.planning import pipeline

NUM_ROWS = 1200
# Results whose order, or whose values, more threads would change.
QUERIES = (
    "select * from 'data/*.parquet'",
    "select distinct id, text, week from 'data/*.parquet'",
    "select * from 'data/0.parquet' union all select * from 'data/1.parquet'",
    "from read_parquet(['data/1.parquet', 'data/0.parquet']) limit 500",
    "select id, text, sum(price) as price, list(week) as weeks from 'data/*.parquet' group by all",
    "select week as id, string_agg(text, ' ') as text from 'data/*.parquet' group by week",
    "select id, first(text) as text, avg(price) as price from 'data/*.parquet' group by id",
    "select current_setting('threads') as id, 'Larch' as text",
)
# Those whose values are the same for any order of the rows.
IN_ANY_ORDER = QUERIES[:4]


@pytest.fixture
def many_rows(project: Any) -> Any:
    """Two files of many row groups; ids come twice and prices do not add up exactly."""
    chance = random.Random(3)
    (project.folder / "data").mkdir()
    for number in range(2):
        columns = {
            "id": [f"r{chance.randrange(NUM_ROWS // 2)}" for _ in range(NUM_ROWS // 2)],
            "text": [f"Larch {chance.randrange(97)} is bright." for _ in range(NUM_ROWS // 2)],
            "week": [chance.randrange(5) for _ in range(NUM_ROWS // 2)],
            "price": [chance.random() * 10.0 ** chance.randrange(9) for _ in range(NUM_ROWS // 2)],
        }
        path = project.folder / "data" / f"{number}.parquet"
        pq.write_table(pa.table(columns), path, row_group_size=32)
    return project


@pytest.fixture
def on_cores(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """on_cores(n) gives this process and its children n threads, as far as there are cores."""
    cores, threads = os.sched_getaffinity(0), torch.get_num_threads()

    def set_number(number: int) -> None:
        os.sched_setaffinity(0, set(sorted(cores)[:number]))
        torch.set_num_threads(number)
        for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "ARROW_NUM_THREADS"):
            monkeypatch.setenv(name, str(number))
        pa.set_cpu_count(number)

    arrow = pa.cpu_count()
    yield set_number
    os.sched_setaffinity(0, cores)
    torch.set_num_threads(threads)
    pa.set_cpu_count(arrow)


def jobs(project: Any, *queries: str) -> None:
    summary = "kind: summary, sampling: {max_tokens: 4}"
    project.jobs(
        *(f'name: q{i}, {summary}, input: {{sql: "{sql}"}}' for i, sql in enumerate(queries)),
        f"name: files, {summary}, input: data",
    )


def entries_of(project: Any, num_workers: int) -> list[tuple[Any, ...]]:
    manifest = load_manifest(project.manifest)
    inputs = pipeline.open_inputs(manifest)
    found = prepare.prepare_entries(inputs.jobs, inputs.render_context, num_workers=num_workers)
    return [(*map(str, (e.key, e.code, e.message)), e.request_key) for e in found]


@pytest.mark.rest
def test_entries_are_the_same_for_all_numbers_of_threads_and_workers(
    many_rows: Any, on_cores: Any
) -> None:
    jobs(many_rows, *QUERIES)
    on_cores(1)
    alone = entries_of(many_rows, num_workers=0)
    assert len(alone) > 2 * NUM_ROWS
    on_cores(7)
    assert entries_of(many_rows, num_workers=3) == alone


@pytest.mark.rest
@pytest.mark.parametrize("sql", IN_ANY_ORDER)
def test_the_order_of_sql_rows_is_total_whatever_the_threads_of_the_query(
    many_rows: Any, monkeypatch: pytest.MonkeyPatch, sql: str
) -> None:
    """The program's queries have one thread; the order of their rows does not rest on that."""
    monkeypatch.chdir(many_rows.folder)
    results = []
    for number in (1, 2, 16):
        settings = [f"threads = {number}" if "threads" in s else s for s in sql_rows._SETTINGS]
        monkeypatch.setattr(sql_rows, "_SETTINGS", settings)
        results.append(sql_rows._query(sql, ["id", "text"]).read_all())
    assert results[0].equals(results[1])
    assert results[0].equals(results[2])


@pytest.mark.rest
def test_a_night_that_is_resumed_on_other_threads_computes_nothing_twice(
    many_rows: Any, on_cores: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs(many_rows, QUERIES[1], QUERIES[4], QUERIES[6])
    on_cores(1)
    first = many_rows.run()
    assert first.counts["num_done"] > 0
    on_cores(7)
    monkeypatch.setattr(prepare, "IN_PROCESS_LIMIT", 10)  # from here on by worker processes
    again = many_rows.run()
    done = first.counts["num_done"] + first.counts["num_reused"]
    assert (again.output_tokens, again.counts["num_reused"]) == (0, done)
    order = "select job, item_id, variant from run_items where run_id = ? order by rowid"
    items = [many_rows.query(order, run.run_id) for run in (first, again)]
    assert sorted(items[0]) == sorted(items[1])
