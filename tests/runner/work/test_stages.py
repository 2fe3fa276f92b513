"""Kinds of several stages: their request keys, and the cost of their stages."""

from typing import Any

import pytest

from thothy_batch.engine.protocol import EngineClient
from thothy_batch.records import Request

KIND = """\
kind: staged
entry: item
fields: [text]
optional_fields: [note]
params: {{style: {{type: str, default: plain}}, num: {{type: int, default: 1, min: 1}}}}
{more}
sampling: {{temperature: {temperature}, max_tokens: 12, ignore_eos: true}}
document: "{{{{ text }}}}"
stages:
  - {{name: draft, instruction: Draft it.}}
  - {{name: polish, instruction: "{polish}"}}
checks: {{empty: fail}}
"""
SAMPLES = "samples: num\noutput: {format: lines}"


def write_kind(project: Any, polish: str, *, temperature: float = 0.0, more: str = "") -> None:
    text = KIND.format(polish=polish, temperature=temperature, more=more)
    (project.folder / "staged.yaml").write_text(text)


@pytest.mark.rest
def test_variables_of_a_later_stage_are_part_of_the_request_key(project: Any) -> None:
    write_kind(project, "In {{ params.style }} style, mind {{ note }}: {{ previous }}")
    project.rows("rows.parquet", id=["a"], text=["one"], note=["this"])
    job = "kind: staged.yaml, input: rows.parquet"
    project.jobs(f"name: j, {job}", f"name: k, {job}, params: {{style: lively}}")
    assert project.run().counts["num_done"] == 2
    project.rows("rows.parquet", id=["a"], text=["one"], note=["that"])
    assert project.run().counts["num_done"] == 2
    again = project.run()
    assert (again.counts["num_reused"], again.output_tokens) == (2, 0)


def test_a_later_stage_that_cannot_be_rendered_wastes_the_computed_tokens(project: Any) -> None:
    write_kind(project, "{{ previous }} {{ 1 / (text | length - 3) }}")
    project.rows("rows.parquet", id=["a", "b"], text=["one", "three"])
    project.jobs("name: j, kind: staged.yaml, input: rows.parquet")
    run = project.run()
    assert (run.counts["num_done"], run.counts["num_failed"]) == (1, 1)
    lost = len("one\n\nDraft it.\n\n") + 12
    found = project.query("select code, wasted_tokens from failures")
    assert found == [("template_error", lost)]
    assert run.wasted_tokens == lost
    assert project.query("select sum(wasted_tokens) from job_stats") == [(lost,)]


def test_a_prompt_truncated_in_a_later_stage_is_flagged(project: Any) -> None:
    write_kind(project, "{{ previous }}{{ previous }}{{ previous }}")
    project.rows("rows.parquet", id=["a"], text=["x" * 40])
    project.jobs(
        "name: j, kind: staged.yaml, input: rows.parquet, on_too_long: truncate_tail",
        model="builtin:fake?context=80",
    )
    project.run()
    assert project.query("select flags from artifacts") == [(["truncated"],)]
    assert project.query("select num_flagged from job_stats") == [(1,)]


@pytest.mark.rest
def test_only_the_last_stage_draws_several_samples(project: Any) -> None:
    seen: list[Request] = []

    def start(*args: Any, **more: Any) -> EngineClient:
        engine = project.options().start_engine(*args, **more)
        submit = engine.submit
        engine.submit = lambda requests: (seen.extend(requests), submit(requests))  # type: ignore[method-assign]
        return engine

    write_kind(project, "Again: {{ previous }}", temperature=0.8, more=SAMPLES)
    project.rows("rows.parquet", id=["a"], text=["one"])
    project.jobs("name: j, kind: staged.yaml, input: rows.parquet, params: {num: 3}")
    project.run(start_engine=start)
    assert [request.num_samples for request in seen] == [1, 3]
    assert project.query("select json_array_length(data), output_tokens from artifacts") == [
        (3, 48)
    ]


def test_engine_time_of_a_request_reaches_to_the_last_token_of_its_last_stage(project: Any) -> None:
    write_kind(project, "Again: {{ previous }}")
    project.rows("rows.parquet", id=list(range(6)), text=[f"text {i}" for i in range(6)])
    project.jobs(
        "name: j, kind: staged.yaml, input: rows.parquet",
        model="builtin:fake?step_ms=5",
        more="engine: {max_seqs: 2}",
    )
    project.run()
    # The last of six stages two ends with the run.
    ((last, engine_s),) = project.query(
        "select max(a.queue_s + a.engine_s), max(r.engine_s) "
        "from artifacts a join runs r using (run_id)"
    )
    assert abs(last - engine_s) < 1e-6


def test_the_forecast_of_stages_ends_at_zero(project: Any, monkeypatch: Any) -> None:
    left: list[int] = []
    monkeypatch.setattr(
        project.notes, "progress", lambda snapshot: left.append(snapshot.tokens_left)
    )
    write_kind(project, "Again: {{ previous }}", temperature=0.8, more=SAMPLES)
    project.rows("rows.parquet", id=["a", "b"], text=["one", "two"])
    project.jobs("name: j, kind: staged.yaml, input: rows.parquet, params: {num: 3}")
    project.run()
    assert min(left) == left[-1] == 0


def test_the_pool_has_room_for_the_longer_prompts_of_later_stages(project: Any) -> None:
    write_kind(project, "{{ previous }}" * 12)
    project.rows("rows.parquet", id=["a"], text=["one"])
    project.jobs("name: j, kind: staged.yaml, input: rows.parquet", more="engine: {max_seqs: 1}")
    assert project.run().counts["num_done"] == 1


def test_a_stage_without_text_ends_its_row(project: Any) -> None:
    """The first stage stops at once, by a stop string that every completion begins with."""
    write_kind(project, "Again: {{ previous }}")
    project.rows("rows.parquet", id=["a"], text=["one"])
    stops = ", ".join(f'"{letter}"' for letter in "abcdefghijklmnopqrstuvwxyz ")
    project.jobs(f"name: j, kind: staged.yaml, input: rows.parquet, sampling: {{stop: [{stops}]}}")
    assert project.run().exit_code == 1
    ((code, message),) = project.query("select code, message from failures")
    assert code == "invalid_output"
    assert "made no text for the next one to read" in message
