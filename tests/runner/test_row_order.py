"""A second night over the same rows, however they are stored, computes nothing."""

import random
from typing import Any

import pytest

ROWS = [
    {"id": f"r{i % 40}", "text": f"Larch {i % 53} is bright.", "week": i % 3} for i in range(120)
]
REPORT = "name: weekly, kind: report, params: {group_by: week}"
SUMMARY = "name: each, kind: summary"


def store_rows(project: Any, seed: int) -> None:
    """Distribute the rows over three files in the order of the seed."""
    rows = random.Random(seed).sample(ROWS, len(ROWS))
    (project.folder / "data").mkdir(exist_ok=True)
    for index in range(3):
        part = rows[index::3]
        columns = {name: [row[name] for row in part] for name in ROWS[0]}
        project.rows(f"data/{index}.parquet", **columns)


@pytest.mark.rest
@pytest.mark.parametrize(
    "sql",
    [
        "select distinct id, text, week from 'data/*.parquet'",
        "select * from 'data/*.parquet' order by week desc",
        "select id, any_value(text order by text) as text, week from 'data/*.parquet' group by all",
    ],
)
def test_the_order_in_which_rows_arrive_changes_no_request(project: Any, sql: str) -> None:
    jobs = [f'{job}, input: {{sql: "{sql}"}}' for job in (REPORT, SUMMARY)]
    project.jobs(*jobs)
    store_rows(project, 1)
    first = project.run()
    assert first.counts["num_done"] > 0
    entries = project.query("select job, item_id, variant, status from run_items order by all")
    store_rows(project, 2)
    second = project.run()
    assert second.output_tokens == 0
    assert second.counts["num_reused"] == first.counts["num_done"] + first.counts["num_reused"]
    assert second.counts["num_failed"] == first.counts["num_failed"]
    again = project.query(
        "select job, item_id, variant from run_items where run_id = ? order by all", second.run_id
    )
    assert [row[:3] for row in entries] == again


@pytest.mark.rest
def test_a_limit_takes_the_same_rows_however_they_arrive(project: Any) -> None:
    project.jobs(f"{SUMMARY}, input: {{sql: \"select * from 'data/*.parquet'\"}}")
    store_rows(project, 1)
    first = project.run(limit=7)
    store_rows(project, 2)
    second = project.run(limit=7)
    assert second.counts["num_items"] == first.counts["num_items"] == 7
    assert second.output_tokens == 0
