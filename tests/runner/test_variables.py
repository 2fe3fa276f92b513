"""Variables in prompts: which earlier results a run with another value can use."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from thothy_batch.runner.commands import plan_manifest
from thothy_batch.runner.session import setup

JOB = (
    "name: j, kind: mine.yaml, input: rows.parquet, sampling: {max_tokens: 4}, "
    "params: {day: ${date}}"
)
KIND = """\
kind: mine
entry: item
fields: [text]
params: {day: {type: str}}
document: "{{ text }} ${date}"
stages: [{name: only, instruction: "Say it as of {{ params.day }}."}]
output: {format: text}
checks: {}
"""


@pytest.fixture
def night(project: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A project whose run, made with `days=n`, begins n days later."""
    project.rows("rows.parquet", id=["a", "b", "c"], text=["Oak table.", "Larch.", "A lamp."])
    (project.folder / "mine.yaml").write_text(KIND)
    project.jobs(JOB)

    def run(days: int = 0, **more: Any) -> Any:
        class Shifted(datetime):
            @classmethod
            def now(cls, tz: Any = None) -> datetime:
                return datetime.now(tz) + timedelta(days=days)

        monkeypatch.setattr(setup, "datetime", Shifted)
        return project.run(**more).counts

    project.run_after = run
    return project


@pytest.mark.rest
def test_a_pinned_day_computes_nothing_twice_and_a_day_of_its_own_is_new_work(night: Any) -> None:
    pinned = {"variables": {"date": "2026-12-01"}}
    assert night.run_after(**pinned, limit=2)["num_done"] == 2
    resumed = night.run_after(days=1, **pinned)
    assert (resumed["num_done"], resumed["num_reused"]) == (1, 2)
    assert night.run_after(days=2)["num_done"] == 3


@pytest.mark.rest
def test_where_a_value_comes_from_changes_no_request(
    night: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    night.jobs(JOB.replace("${date}", "${DAY}"))
    assert night.run_after(variables={"DAY": "2026-12-01"})["num_done"] == 3
    monkeypatch.setenv("DAY", "2026-12-01")
    assert night.run_after()["num_reused"] == 3
    night.jobs(JOB.replace("${date}", "2026-12-01"))
    assert night.run_after()["num_reused"] == 3


@pytest.mark.rest
def test_plan_and_run_show_the_same_day_and_note_what_is_not_used(night: Any) -> None:
    options = night.options(variables={"date": "1999-12-31", "other": "x"})
    document = plan_manifest(options, night.notes)
    note = "--var other: the manifest does not use ${other}"
    assert "Say it as of 1999-12-31." in document["first_prompt"]
    assert "Oak table. ${date}" in document["first_prompt"]  # a kind file holds no variables
    assert note in document["notes"]
    night.run_after(variables={"date": "1999-12-31", "other": "x"})
    assert note in night.notes.texts
    assert night.run_after(variables={"date": "1999-12-31"})["num_reused"] == 3
