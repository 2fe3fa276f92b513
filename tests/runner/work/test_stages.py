"""Kinds of several stages: their request keys, and the cost of their stages."""

from typing import Any

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


def write_kind(night: Any, polish: str, *, temperature: float = 0.0, more: str = "") -> None:
    text = KIND.format(polish=polish, temperature=temperature, more=more)
    (night.folder / "staged.yaml").write_text(text)


def test_variables_of_a_later_stage_are_part_of_the_request_key(night: Any) -> None:
    write_kind(night, "In {{ params.style }} style, mind {{ note }}: {{ previous }}")
    night.rows("rows.parquet", id=["a"], text=["one"], note=["this"])
    job = "kind: staged.yaml, input: rows.parquet"
    night.jobs(f"name: j, {job}", f"name: k, {job}, params: {{style: lively}}")
    assert night.run().counts["num_done"] == 2
    night.rows("rows.parquet", id=["a"], text=["one"], note=["that"])
    assert night.run().counts["num_done"] == 2
    again = night.run()
    assert (again.counts["num_reused"], again.output_tokens) == (2, 0)


def test_a_later_stage_that_cannot_be_rendered_wastes_the_computed_tokens(night: Any) -> None:
    write_kind(night, "{{ previous }} {{ 1 / (text | length - 3) }}")
    night.rows("rows.parquet", id=["a", "b"], text=["one", "three"])
    night.jobs("name: j, kind: staged.yaml, input: rows.parquet")
    run = night.run()
    assert (run.counts["num_done"], run.counts["num_failed"]) == (1, 1)
    lost = len("one\n\nDraft it.\n\n") + 12
    found = night.query("select code, wasted_tokens from failures")
    assert found == [("template_error", lost)]
    assert run.wasted_tokens == lost
    assert night.query("select sum(wasted_tokens) from job_stats") == [(lost,)]


def test_a_prompt_truncated_in_a_later_stage_is_flagged(night: Any) -> None:
    write_kind(night, "{{ previous }}{{ previous }}{{ previous }}")
    night.rows("rows.parquet", id=["a"], text=["x" * 40])
    night.jobs(
        "name: j, kind: staged.yaml, input: rows.parquet, on_too_long: truncate_tail",
        model="builtin:fake?context=80",
    )
    night.run()
    assert night.query("select flags from artifacts") == [(["truncated"],)]
    assert night.query("select num_flagged from job_stats") == [(1,)]


def test_only_the_last_stage_draws_several_samples(night: Any) -> None:
    seen: list[Request] = []

    def start(*args: Any, **more: Any) -> EngineClient:
        engine = night.options().start_engine(*args, **more)
        submit = engine.submit
        engine.submit = lambda requests: (seen.extend(requests), submit(requests))  # type: ignore[method-assign]
        return engine

    write_kind(night, "Again: {{ previous }}", temperature=0.8, more=SAMPLES)
    night.rows("rows.parquet", id=["a"], text=["one"])
    night.jobs("name: j, kind: staged.yaml, input: rows.parquet, params: {num: 3}")
    night.run(start_engine=start)
    assert [request.num_samples for request in seen] == [1, 3]
    assert night.query("select json_array_length(data), output_tokens from artifacts") == [(3, 48)]


def test_engine_time_of_a_request_reaches_to_the_last_token_of_its_last_stage(night: Any) -> None:
    write_kind(night, "Again: {{ previous }}")
    night.rows("rows.parquet", id=list(range(6)), text=[f"text {i}" for i in range(6)])
    night.jobs(
        "name: j, kind: staged.yaml, input: rows.parquet",
        model="builtin:fake?step_ms=5",
        more="engine: {max_seqs: 2}",
    )
    night.run()
    # The last of six stages two ends with the run.
    ((last, engine_s),) = night.query(
        "select max(a.queue_s + a.engine_s), max(r.engine_s) "
        "from artifacts a join runs r using (run_id)"
    )
    assert abs(last - engine_s) < 1e-6


def test_the_forecast_of_stages_ends_at_zero(night: Any, monkeypatch: Any) -> None:
    left: list[int] = []
    monkeypatch.setattr(night.notes, "progress", lambda snapshot: left.append(snapshot.tokens_left))
    write_kind(night, "Again: {{ previous }}", temperature=0.8, more=SAMPLES)
    night.rows("rows.parquet", id=["a", "b"], text=["one", "two"])
    night.jobs("name: j, kind: staged.yaml, input: rows.parquet, params: {num: 3}")
    night.run()
    assert min(left) == left[-1] == 0


def test_the_pool_has_room_for_the_longer_prompts_of_later_stages(night: Any) -> None:
    write_kind(night, "{{ previous }}" * 12)
    night.rows("rows.parquet", id=["a"], text=["one"])
    night.jobs("name: j, kind: staged.yaml, input: rows.parquet", more="engine: {max_seqs: 1}")
    assert night.run().counts["num_done"] == 1


def test_a_stage_without_text_ends_its_row(night: Any) -> None:
    """The first stage stops at once, by a stop string that every completion begins with."""
    write_kind(night, "Again: {{ previous }}")
    night.rows("rows.parquet", id=["a"], text=["one"])
    stops = ", ".join(f'"{letter}"' for letter in "abcdefghijklmnopqrstuvwxyz ")
    night.jobs(f"name: j, kind: staged.yaml, input: rows.parquet, sampling: {{stop: [{stops}]}}")
    assert night.run().exit_code == 1
    ((code, message),) = night.query("select code, message from failures")
    assert code == "invalid_output"
    assert "made no text for the next one to read" in message
