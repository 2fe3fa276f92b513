"""Rejected and flagged completions are retried, the best attempt counts, and counts add up."""

import shutil
from typing import Any

import pytest

from thothy_batch.engine.start import start_child, start_in_process
from thothy_batch.kinds import ParsedOutput
from thothy_batch.records import Completion, FinishReason, Request, RequestResult, Sampling
from thothy_batch.runner.work.retry_policy import Attempt, RetryPolicy

STRICT = """\
kind: strict
version: 1
entry: item
fields: [text]
sampling: {temperature: TEMPERATURE, max_tokens: 6}
document: "{{ text }}"
stages:
  - {name: only, instruction: Say it.}
output: {format: text}
checks: {cut_off: VERDICT}
"""


def make_attempt(
    reason: FinishReason, *, flags: Any = (), failure: str = "", **more: Any
) -> Attempt:
    completion = Completion((1, 2), "x", reason)
    result = RequestResult(0, (completion,), 4, 0, 2, 0, 0.0, 0.1)
    request = Request(0, "key", (1, 2, 3, 4), Sampling(max_tokens=8, **more))
    return Attempt(request, 1, result, ParsedOutput("x", flags=list(flags), failure=failure))


@pytest.mark.parametrize(
    ("reason", "temperature", "more_tokens", "new_seed"),
    [
        (FinishReason.LENGTH, 0.0, True, True),
        (FinishReason.LENGTH, 0.7, True, True),
        (FinishReason.STOP, 0.7, False, True),
        (FinishReason.REPETITION, 0.0, False, False),  # greedy decoding repeats itself
        (FinishReason.STOP, 0.0, False, False),
    ],
)
def test_which_completions_are_retried(
    reason: FinishReason, temperature: float, more_tokens: bool, new_seed: bool
) -> None:
    policy = RetryPolicy(run_seed=1, max_attempts=2, max_len=100)
    for bad in ({"flags": ["cut_off"]}, {"failure": "it is empty"}):
        attempt = make_attempt(reason, temperature=temperature, **bad)
        request = policy.next_request(attempt, None, num_attempts=1)
        assert (request is not None) == (more_tokens or new_seed)
        if request is not None:
            assert request.sampling.max_tokens == (16 if more_tokens else 8)
            assert request.seed != attempt.request.seed
        assert policy.next_request(attempt, None, num_attempts=2) is None
    good = make_attempt(reason, temperature=temperature)
    assert policy.next_request(good, None, num_attempts=1) is None


def test_a_larger_max_tokens_stays_within_the_context() -> None:
    attempt = make_attempt(FinishReason.LENGTH, flags=["cut_off"])
    request = RetryPolicy(1, 5, 15).next_request(attempt, None, num_attempts=1)
    assert request is not None
    assert request.sampling.max_tokens == 11
    assert RetryPolicy(1, 5, 12).next_request(attempt, None, num_attempts=1) is None


def strict_project(project: Any, verdict: str, temperature: float = 0.0, more: str = "") -> None:
    text = STRICT.replace("TEMPERATURE", str(temperature)).replace("VERDICT", verdict)
    (project.folder / "strict.yaml").write_text(text)
    project.rows("rows.parquet", id=list(range(30)), text=[f"text {i}" for i in range(30)])
    project.jobs("name: j, kind: strict.yaml, input: rows.parquet, max_failed_pct: 100", more=more)


@pytest.mark.few(1)
@pytest.mark.parametrize("verdict", ["flag", "fail"])
@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_rows_that_are_cut_off_get_more_room(
    project: Any, verdict: str, temperature: float
) -> None:
    """About one in nine completions of the fake ends within six tokens, more in twelve or 24."""
    found = {}
    for most in (1, 2, 3):
        strict_project(project, verdict, temperature, f"run: {{max_attempts: {most}}}")
        run = project.run(force=True)
        bad = project.query(
            "select count(*) from run_items where run_id = ? and status = 'failed'", run.run_id
        )[0][0]
        flagged = project.query(
            "select count(*) from artifacts where run_id = ? and verdict = 'flagged'", run.run_id
        )[0][0]
        found[most] = bad + flagged
        assert (bad, flagged)[verdict == "fail"] == 0
        lens = project.query(
            "select coalesce(max(output_tokens), 0), coalesce(max(attempt), 0) from artifacts "
            "where run_id = ?",
            run.run_id,
        )[0]
        assert lens[0] <= 6 * 2 ** (most - 1)
        assert lens[1] <= most
        ((wasted, engine_waste),) = project.query(
            "select r.wasted_tokens, coalesce((select sum(wasted_tokens) from artifacts where "
            "run_id = r.run_id), 0) + coalesce((select sum(wasted_tokens) from failures where "
            "run_id = r.run_id), 0) from runs r where run_id = ?",
            run.run_id,
        )
        assert wasted == engine_waste
        assert (wasted > 0) == (most > 1 or verdict == "fail")
    assert found[3] < found[1]


def test_of_equal_attempts_the_first_counts_and_a_worse_one_never(project: Any) -> None:
    strict_project(project, "flag", more="run: {max_attempts: 2}")
    project.run()
    rows = project.query("select attempt, output_tokens, verdict from artifacts")
    for attempt, output_tokens, verdict in rows:
        assert (attempt == 1) == (verdict == "flagged" or output_tokens <= 6)
        assert output_tokens <= (12 if attempt == 2 else 6)


@pytest.mark.rest
def test_a_job_is_judged_by_first_attempts(project: Any) -> None:
    """Further attempts come last, so a failing job must be stopped without waiting for them."""
    strict_project(project, "fail")
    job = "name: j, kind: strict.yaml, input: rows.parquet, max_failed_pct: 20"
    project.jobs(job, more="engine: {max_seqs: 8}")
    project.rows("rows.parquet", id=list(range(400)), text=[f"text {i}" for i in range(400)])
    run = project.run()
    assert run.jobs[0]["stopped"]
    assert run.counts["num_not_run"] > 0
    assert run.counts["num_failed"] > 0


@pytest.mark.rest
def test_an_error_leaves_what_waited_for_another_attempt_to_the_next_run(project: Any) -> None:
    """The next run then ends as an undisturbed one."""
    rows = "select item_id, text, verdict, attempt from artifacts order by item_id"
    strict_project(project, "flag", more="run: {max_attempts: 2}")
    project.run()
    expected = project.query(rows)
    ends = []
    for step in (3, 8, 14):
        project.store.unlink()
        shutil.rmtree(project.folder / "artifacts.duckdb.journal")
        job = "name: j, kind: strict.yaml, input: rows.parquet, max_failed_pct: 100"
        knobs = f"?fail=error&fail_at_step={step}&fail_once={project.folder / str(step)}"
        more = "engine: {max_seqs: 16}\nrun: {max_attempts: 2}"
        project.jobs(job, model=f"builtin:fake{knobs}", more=more)
        ends.append(project.run(start_engine=start_child).exit_code)
        assert project.run(start_engine=start_child).exit_code == 0
        assert project.query(rows) == expected
    assert 5 in ends


@pytest.mark.rest
@pytest.mark.usefixtures("virtual_clock")
def test_a_stop_keeps_what_waited_for_another_attempt(project: Any) -> None:
    strict_project(project, "flag")
    project.jobs(
        "name: j, kind: strict.yaml, input: rows.parquet",
        model="builtin:fake?step_ms=60",
        more="engine: {max_seqs: 4}\nrun: {max_attempts: 3, grace: 0s}",
    )
    run = project.run(time_budget_s=2.0)
    assert run.stop_reason == "time_budget"
    assert run.counts["num_done"] + run.counts["num_not_run"] == 30
    assert run.counts["num_flagged"] > 4  # the first completions of rows that waited
    again = project.run()
    assert again.counts["num_reused"] == run.counts["num_done"]


@pytest.mark.rest
@pytest.mark.parametrize("warmer", [None, 0.8])
def test_a_kind_may_name_a_temperature_for_greedy_rows(project: Any, warmer: float | None) -> None:
    """Sections are always missing, so every attempt fails; only a higher temperature changes it."""
    strict = STRICT.replace("TEMPERATURE", "0.0").replace("VERDICT", "flag")
    strict = strict.replace("format: text", "format: sections, sections: [Summary]")
    strict = strict.replace("cut_off: flag", "sections: fail").replace("tokens: 6", "tokens: 900")
    if warmer is not None:
        strict += f"retry_temperature: {warmer}\n"
    (project.folder / "strict.yaml").write_text(strict)
    project.rows("rows.parquet", id=list(range(5)), text=[f"text {i}" for i in range(5)])
    project.jobs("name: j, kind: strict.yaml, input: rows.parquet, max_failed_pct: 100")
    asked: list[Request] = []
    summary = project.run(start_engine=recording(asked))
    assert summary.counts["num_failed"] == 5
    assert {n for (n,) in project.query("select attempt from failures")} == {2 if warmer else 1}
    temperatures = [request.sampling.temperature for request in asked]
    assert temperatures == [0.0] * 5 + ([0.8] * 5 if warmer else [])
    asked.clear()
    project.run(start_engine=recording(asked), retry_failed=True)
    assert asked
    assert {each.sampling.temperature for each in asked} == {warmer or 0.0}


def recording(asked: list[Request]) -> Any:
    def start(spec: Any, *, log_path: Any = None, on_phase: Any = None) -> Any:
        engine = start_in_process(spec)
        submit = engine.submit

        def submit_too(requests: Any) -> None:
            asked.extend(requests)
            submit(requests)

        engine.submit = submit_too
        return engine

    return start
