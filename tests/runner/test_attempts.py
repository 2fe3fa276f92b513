"""Bad answers are tried again, the best one counts, and the books still add up."""

import shutil
from typing import Any

import pytest

from thothy_batch.engine.client import start_child, start_in_process
from thothy_batch.kinds import Finished
from thothy_batch.records import Completion, FinishReason, Request, RequestResult, Sampling
from thothy_batch.runner.attempts import Attempts, Tried

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


def tried(reason: FinishReason, *, flags: Any = (), failure: str = "", **more: Any) -> Tried:
    completion = Completion((1, 2), "x", reason)
    result = RequestResult(0, (completion,), 4, 0, 2, 0, 0.0, 0.1)
    request = Request(0, "key", (1, 2, 3, 4), Sampling(max_tokens=8, **more))
    return Tried(request, 1, result, Finished("x", flags=list(flags), failure=failure))


@pytest.mark.parametrize(
    ("reason", "temperature", "more_tokens", "new_seed"),
    [
        (FinishReason.LENGTH, 0.0, True, True),
        (FinishReason.LENGTH, 0.7, True, True),
        (FinishReason.STOP, 0.7, False, True),
        (FinishReason.REPETITION, 0.0, False, False),  # it would say the same again
        (FinishReason.STOP, 0.0, False, False),
    ],
)
def test_what_is_tried_again(
    reason: FinishReason, temperature: float, more_tokens: bool, new_seed: bool
) -> None:
    attempts = Attempts(run_seed=1, most=2, max_len=100)
    for bad in ({"flags": ["cut_off"]}, {"failure": "it is empty"}):
        answer = tried(reason, temperature=temperature, **bad)
        request = attempts.next_request(answer, None, num_tried=1)
        assert (request is not None) == (more_tokens or new_seed)
        if request is not None:
            assert request.sampling.max_tokens == (16 if more_tokens else 8)
            assert request.seed != answer.request.seed
        assert attempts.next_request(answer, None, num_tried=2) is None
    good = tried(reason, temperature=temperature)
    assert attempts.next_request(good, None, num_tried=1) is None


def test_more_tokens_end_where_the_context_does() -> None:
    answer = tried(FinishReason.LENGTH, flags=["cut_off"])
    request = Attempts(1, 5, 15).next_request(answer, None, num_tried=1)
    assert request is not None
    assert request.sampling.max_tokens == 11
    assert Attempts(1, 5, 12).next_request(answer, None, num_tried=1) is None


def strict_night(night: Any, verdict: str, temperature: float = 0.0, more: str = "") -> None:
    text = STRICT.replace("TEMPERATURE", str(temperature)).replace("VERDICT", verdict)
    (night.folder / "strict.yaml").write_text(text)
    night.rows("rows.parquet", id=list(range(30)), text=[f"text {i}" for i in range(30)])
    night.jobs("name: j, kind: strict.yaml, input: rows.parquet, max_failed_pct: 100", more=more)


@pytest.mark.parametrize("verdict", ["flag", "fail"])
@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_rows_that_are_cut_off_get_more_room(night: Any, verdict: str, temperature: float) -> None:
    """About one in nine answers of the fake ends within six tokens, more within twelve or 24."""
    found = {}
    for most in (1, 2, 3):
        strict_night(night, verdict, temperature, f"run: {{max_attempts: {most}}}")
        run = night.run(force=True)
        bad = night.query(
            "select count(*) from run_items where run_id = ? and status = 'failed'", run.run_id
        )[0][0]
        flagged = night.query(
            "select count(*) from artifacts where run_id = ? and verdict = 'flagged'", run.run_id
        )[0][0]
        found[most] = bad + flagged
        assert (bad, flagged)[verdict == "fail"] == 0
        lens = night.query(
            "select coalesce(max(output_tokens), 0), coalesce(max(attempt), 0) from artifacts "
            "where run_id = ?",
            run.run_id,
        )[0]
        assert lens[0] <= 6 * 2 ** (most - 1)
        assert lens[1] <= most
        ((wasted, engine_waste),) = night.query(
            "select r.wasted_tokens, coalesce((select sum(wasted_tokens) from artifacts where "
            "run_id = r.run_id), 0) + coalesce((select sum(wasted_tokens) from failures where "
            "run_id = r.run_id), 0) from runs r where run_id = ?",
            run.run_id,
        )
        assert wasted == engine_waste
        assert (wasted > 0) == (most > 1 or verdict == "fail")
    assert found[3] < found[1]


def test_of_equal_answers_the_first_counts_and_a_worse_one_never(night: Any) -> None:
    strict_night(night, "flag", more="run: {max_attempts: 2}")
    night.run()
    rows = night.query("select attempt, output_tokens, verdict from artifacts")
    for attempt, output_tokens, verdict in rows:
        assert (attempt == 1) == (verdict == "flagged" or output_tokens <= 6)
        assert output_tokens <= (12 if attempt == 2 else 6)


def test_a_job_is_judged_by_first_answers(night: Any) -> None:
    """Further attempts come last: a job that is no good must not wait for them to be stopped."""
    strict_night(night, "fail")
    job = "name: j, kind: strict.yaml, input: rows.parquet, max_failed_pct: 20"
    night.jobs(job, more="engine: {max_seqs: 8}")
    night.rows("rows.parquet", id=list(range(400)), text=[f"text {i}" for i in range(400)])
    run = night.run()
    assert run.jobs[0]["stopped"]
    assert run.counts["num_not_run"] > 0
    assert run.counts["num_failed"] > 0


def test_an_error_leaves_what_waited_for_another_attempt_to_the_next_run(night: Any) -> None:
    """Whose end is then that of a night in peace."""
    rows = "select item_id, text, verdict, attempt from artifacts order by item_id"
    strict_night(night, "flag", more="run: {max_attempts: 2}")
    night.run()
    expected = night.query(rows)
    ends = []
    for step in (3, 8, 14):
        night.store.unlink()
        shutil.rmtree(night.folder / "artifacts.duckdb.journal")
        job = "name: j, kind: strict.yaml, input: rows.parquet, max_failed_pct: 100"
        knobs = f"?fail=error&fail_at_step={step}&fail_once={night.folder / str(step)}"
        more = "engine: {max_seqs: 16}\nrun: {max_attempts: 2}"
        night.jobs(job, model=f"builtin:fake{knobs}", more=more)
        ends.append(night.run(start_engine=start_child).exit_code)
        assert night.run(start_engine=start_child).exit_code == 0
        assert night.query(rows) == expected
    assert 5 in ends


@pytest.mark.usefixtures("virtual_clock")
def test_a_stop_keeps_what_waited_for_another_attempt(night: Any) -> None:
    strict_night(night, "flag")
    night.jobs(
        "name: j, kind: strict.yaml, input: rows.parquet",
        model="builtin:fake?step_ms=60",
        more="engine: {max_seqs: 4}\nrun: {max_attempts: 3, grace: 0s}",
    )
    run = night.run(time_budget_s=2.0)
    assert run.stop_reason == "time_budget"
    assert run.counts["num_done"] + run.counts["num_not_run"] == 30
    assert run.counts["num_flagged"] > 4  # the first answers of rows that waited
    again = night.run()
    assert again.counts["num_reused"] == run.counts["num_done"]


@pytest.mark.parametrize("warmer", [None, 0.8])
def test_a_kind_may_name_a_temperature_for_greedy_rows(night: Any, warmer: float | None) -> None:
    """Sections are never there, so every answer is bad; only a warmer one could be another."""
    strict = STRICT.replace("TEMPERATURE", "0.0").replace("VERDICT", "flag")
    strict = strict.replace("format: text", "format: sections, sections: [Summary]")
    strict = strict.replace("cut_off: flag", "sections: fail").replace("tokens: 6", "tokens: 900")
    if warmer is not None:
        strict += f"retry_temperature: {warmer}\n"
    (night.folder / "strict.yaml").write_text(strict)
    night.rows("rows.parquet", id=list(range(5)), text=[f"text {i}" for i in range(5)])
    night.jobs("name: j, kind: strict.yaml, input: rows.parquet, max_failed_pct: 100")
    asked: list[Request] = []
    summary = night.run(start_engine=recording(asked))
    assert summary.counts["num_failed"] == 5
    assert {n for (n,) in night.query("select attempt from failures")} == {2 if warmer else 1}
    temperatures = [request.sampling.temperature for request in asked]
    assert temperatures == [0.0] * 5 + ([0.8] * 5 if warmer else [])
    asked.clear()
    night.run(start_engine=recording(asked), retry_failed=True)
    assert asked
    assert {each.sampling.temperature for each in asked} == {warmer or 0.0}


def recording(asked: list[Request]) -> Any:
    def start(spec: Any, *, log_path: Any = None) -> Any:
        engine = start_in_process(spec)
        submit = engine.submit

        def submit_too(requests: Any) -> None:
            asked.extend(requests)
            submit(requests)

        engine.submit = submit_too
        return engine

    return start
