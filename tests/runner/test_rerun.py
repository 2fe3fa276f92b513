"""Running a manifest again computes what is missing, and nothing else."""

from typing import Any

import pyarrow as pa
import pytest

from thothy_batch.errors import ManifestError


def prompts(num: int) -> dict[str, list[Any]]:
    return {"id": [str(i) for i in range(num)], "prompt": [f"prompt {i}" for i in range(num)]}


def test_a_second_run_generates_no_token(raw_project: Any) -> None:
    first = raw_project.run()
    second = raw_project.run()
    assert (first.exit_code, first.counts["num_done"]) == (0, 12)
    assert (second.exit_code, second.counts["num_reused"]) == (0, 12)
    assert second.output_tokens == 0
    assert second.messages == ["nothing left to do: 12 entries were reused"]
    assert raw_project.query("select count(*) from artifacts") == [(12,)]


@pytest.mark.rest
def test_an_edited_row_is_new_work(raw_project: Any) -> None:
    raw_project.run()
    rows = prompts(12)
    rows["prompt"][3] = "another prompt"
    raw_project.rows("rows.parquet", **rows)
    again = raw_project.run()
    assert (again.counts["num_done"], again.counts["num_reused"]) == (1, 11)
    latest = raw_project.query("select count(*) from latest_artifacts")
    assert latest == [(12,)]


@pytest.mark.rest
def test_ten_added_rows_are_ten_requests(raw_project: Any) -> None:
    raw_project.run()
    raw_project.rows("rows.parquet", **prompts(22))
    again = raw_project.run()
    assert (again.counts["num_done"], again.counts["num_reused"]) == (10, 12)


@pytest.mark.rest
def test_the_order_of_rows_changes_nothing(raw_project: Any) -> None:
    raw_project.run()
    raw_project.rows("rows.parquet", **{k: v[::-1] for k, v in prompts(12).items()})
    assert raw_project.run().counts["num_reused"] == 12


def test_force_computes_everything_and_doubles_nothing(raw_project: Any) -> None:
    raw_project.run()
    before = raw_project.query("select item_id, text from artifacts order by all")
    again = raw_project.run(force=True)
    assert again.counts["num_done"] == 12
    assert raw_project.query("select item_id, text from artifacts order by all") == before


def test_identical_rows_are_computed_once(project: Any) -> None:
    project.rows("rows.parquet", id=["a", "b", "c"], prompt=["same", "same", "other"])
    project.jobs("name: j, kind: raw, input: rows.parquet, sampling: {max_tokens: 8}")
    run = project.run()
    assert (run.counts["num_done"], run.counts["num_reused"]) == (2, 1)
    rows = project.query("select item_id, text, reused_from from artifacts order by item_id")
    assert rows[0][1] == rows[1][1] != rows[2][1]
    assert [row[2] is not None for row in rows] == [False, True, False]
    assert project.run().counts["num_reused"] == 3


@pytest.mark.rest
def test_a_shared_request_has_the_highest_priority_of_its_jobs(project: Any) -> None:
    project.rows("rows.parquet", **prompts(1))
    job = "kind: raw, input: rows.parquet, sampling: {max_tokens: 4}"
    project.jobs(f"name: a, {job}, priority: 1", f"name: b, {job}, priority: 9")
    seen: list[Any] = []

    def start(*args: Any, **more: Any) -> Any:
        engine = project.options().start_engine(*args, **more)
        submit = engine.submit
        engine.submit = lambda requests: (seen.extend(requests), submit(requests))
        return engine

    project.run(start_engine=start)
    assert [request.priority for request in seen] == [9]


@pytest.mark.rest
def test_limit_and_job_select_rows(project: Any) -> None:
    project.rows("rows.parquet", **prompts(10))
    job = "kind: raw, input: rows.parquet, sampling: {max_tokens: 4}"
    project.jobs(f"name: a, {job}, params: {{}}", f"name: b, {job}, priority: 9")
    assert project.run(jobs=("b",), limit=4).counts["num_done"] == 4
    assert project.query("select distinct job from run_items") == [("b",)]
    whole = project.run()
    # Job a's first four rows are requests that job b has results for.
    assert (whole.counts["num_done"], whole.counts["num_reused"]) == (6, 14)


def test_an_unknown_job_is_refused(raw_project: Any) -> None:
    with pytest.raises(ManifestError, match="no job of that name"):
        raw_project.run(jobs=("x",))


def test_token_counts_are_those_of_the_ids(project: Any) -> None:
    project.rows("rows.parquet", **prompts(5))
    project.jobs(
        "name: j, kind: raw, input: rows.parquet, sampling: {max_tokens: 9, ignore_eos: true}",
        more="output: {token_ids: true}",
    )
    run = project.run()
    rows = project.query(
        "select prompt_tokens, output_tokens, len(output_token_ids) from artifacts"
    )
    assert rows == [(8, 9, 9)] * 5
    assert (run.prompt_tokens, run.output_tokens) == (40, 45)


def test_an_empty_input_is_reported(project: Any) -> None:
    project.rows("rows.parquet", id=pa.array([], pa.string()), prompt=pa.array([], pa.string()))
    project.jobs("name: j, kind: raw, input: rows.parquet")
    run = project.run()
    assert (run.exit_code, run.counts["num_items"]) == (0, 0)
    assert run.messages == ["nothing to do: the inputs have no rows"]


@pytest.mark.rest
def test_wasted_tokens_are_those_recomputed_after_preemption(project: Any) -> None:
    texts = ["one and the same beginning of a prompt, " * 3 + str(i) for i in range(24)]
    project.rows("rows.parquet", id=list(range(24)), text=texts)
    project.jobs(
        "name: j, kind: hook, input: rows.parquet, sampling: {max_tokens: 60, ignore_eos: true}",
        more="engine: {admission: optimistic, num_blocks: 60, block_size: 16}",
    )
    run = project.run()
    ((preempted,),) = project.query("select sum(num_preempted) from engine_steps")
    ((by_artifact,),) = project.query("select sum(wasted_tokens) from artifacts")
    assert preempted > 0
    assert run.wasted_tokens == by_artifact > 0
