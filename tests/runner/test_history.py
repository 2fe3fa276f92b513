"""A run's own rows stay as it left them, and later runs add none that say the same again."""

import json
from typing import Any

import pytest

from thothy_batch.errors import EngineError
from thothy_batch.report.html import render_html
from thothy_batch.runner.commands.report import report_document

STRICT = """\
kind: strict
fields: [text]
sampling: {temperature: 0, max_tokens: 4}
document: "{{ text }}"
stages: [{name: only, instruction: Say it.}]
output: {format: sections, sections: [Overview]}
checks: {sections: fail}
"""
TEXTS = {"id": ["a", "b", "c", "d"], "text": ["same", "same", "same", "other"]}


@pytest.fixture
def failing_project(project: Any) -> Any:
    """Four rows that no completion is good enough for; three of them are equal."""
    (project.folder / "strict.yaml").write_text(STRICT)
    project.rows("rows.parquet", **TEXTS)
    project.jobs("name: j, kind: strict.yaml, input: rows.parquet, max_failed_pct: 100")
    return project


def entries(project: Any, query: str) -> list[Any]:
    return [row[0] for row in project.query(f"select item_id from {query} order by all")]


@pytest.mark.rest
def test_failures_of_equal_rows_are_written_once(failing_project: Any) -> None:
    for _ in range(4):
        run = failing_project.run()
        assert (run.exit_code, run.counts["num_failed"]) == (1, 4)
        assert entries(failing_project, "failures") == ["a", "b", "c", "d"]
        assert entries(failing_project, "latest_failures") == ["a", "b", "c", "d"]
        assert report_document(failing_project.store, None)["failures"][0]["num"] == 4
    failing_project.run(retry_failed=True)
    assert len(entries(failing_project, "failures")) == 8, "one for each attempt and entry"


@pytest.mark.rest
def test_a_new_row_that_equals_a_failed_one_fails_with_a_row_of_its_own(
    failing_project: Any,
) -> None:
    failing_project.run()
    failing_project.rows("rows.parquet", id=[*TEXTS["id"], "e"], text=[*TEXTS["text"], "same"])
    for _ in range(3):
        assert failing_project.run().counts["num_failed"] == 5
        assert entries(failing_project, "failures") == ["a", "b", "c", "d", "e"]
    (found,) = failing_project.query("select code, attempt from failures where item_id = 'e'")
    assert found == ("invalid_output", 2)


@pytest.mark.rest
def test_an_entry_has_the_verdict_that_it_had_in_each_run(project: Any) -> None:
    project.rows("rows.parquet", **TEXTS)
    project.jobs("name: s, kind: summary, input: rows.parquet, sampling: {max_tokens: 4}")
    for _ in range(2):
        project.run()
    wrong = project.query("""
        select i.* from run_items i left join artifacts a using (artifact_id)
        where i.verdict is distinct from a.verdict""")
    assert wrong == []
    statuses = "select status, count(*) from run_items group by all order by all"
    assert project.query(statuses) == [("done", 2), ("reused", 6)]
    assert project.query("select num_flagged, flags from job_stats") == [
        (4, {"cut_off": 4}),
        (4, {"cut_off": 4}),
    ]


@pytest.mark.rest
def test_reports_of_earlier_runs_stay_the_same_to_the_byte(failing_project: Any) -> None:
    """After a forced run, one whose engine dies, one of other jobs, and one of other rows."""
    project = failing_project
    cut = "name: s, kind: summary, input: rows.parquet, sampling: {max_tokens: 4}"
    strict = "name: j, kind: strict.yaml, input: rows.parquet, max_failed_pct: 100"
    reports: dict[str, tuple[str, str]] = {}

    def keep(run: Any) -> None:
        reports[run.run_id] = written(run.run_id)
        for run_id, report in reports.items():
            assert written(run_id) == report

    def written(run_id: str) -> tuple[str, str]:
        document = report_document(project.store, run_id)
        return json.dumps(document), render_html(document)

    project.jobs(cut, strict)
    keep(project.run())
    keep(project.run())
    keep(project.run(force=True))
    project.rows("rows.parquet", id=["a", "b", "x"], text=["same", "new", "newer"])
    keep(project.run(jobs=("s",)))

    def start(*args: Any, **more: Any) -> Any:
        raise EngineError("it does not start")

    keep(project.run(start_engine=start))
    assert project.query("select count(*) from runs where status = 'failed'") == [(1,)]


@pytest.mark.rest
def test_token_ids_asked_for_later_are_missing_where_nothing_is_computed(
    raw_project: Any,
) -> None:
    """A setting of what is stored computes nothing again; the run says what is missing."""
    raw_project.run()
    text = raw_project.manifest.read_text()
    raw_project.manifest.write_text(f"{text}output: {{token_ids: true}}\n")
    ids = "select count(output_token_ids) from artifacts"
    again = raw_project.run()
    assert (again.counts["num_reused"], again.output_tokens) == (12, 0)
    assert "12 reused artifacts have no output_token_ids" in "\n".join(again.messages)
    assert raw_project.query(ids) == [(0,)]
    forced = raw_project.run(force=True)
    assert raw_project.query(ids) == [(12,)]
    last = raw_project.run()
    for run in (forced, last):
        assert "output_token_ids" not in "\n".join(run.messages)
