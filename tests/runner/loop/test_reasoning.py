"""Reasoning through a run: cut off before checks and later stages, kept in a column of its own."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from thothy_batch.engine.protocol import EngineClient
from thothy_batch.engine.start import start_in_process
from thothy_batch.records import EngineSpec, EngineUpdate, FinishReason, Request

STAGED = """\
kind: staged
entry: item
fields: [text]
sampling: {max_tokens: 40}
document: "{{ text }}"
stages:
  - {name: draft, instruction: Draft it.}
  - {name: polish, instruction: "Polish: {{ previous }}"}
checks: {empty: fail, cut_off: flag, repetition: flag}
"""
THOUGHT = "<think>\nThe reader wants a line.\n</think>\n\n"
LENGTH, STOP = FinishReason.LENGTH, FinishReason.STOP


def writing(
    write: Callable[[str, Request, int], tuple[str, FinishReason]], seen: list[Request]
) -> Callable[..., EngineClient]:
    """Start an engine that writes what `write` says of a prompt, its request and the sample."""

    def start(
        spec: EngineSpec, *, log_path: Path | None = None, on_phase: Any = None
    ) -> EngineClient:
        engine = start_in_process(spec)
        submit, poll = engine.submit, engine.poll
        requests: dict[int, Request] = {}

        def submit_seen(given: Any) -> None:
            given = list(given)
            seen.extend(given)
            requests.update((request.request_id, request) for request in given)
            submit(given)

        def poll_written(*args: Any, **more: Any) -> EngineUpdate:
            update = poll(*args, **more)
            for number, result in enumerate(update.results):
                request = requests[result.request_id]
                prompt = bytes(list(request.prompt_token_ids)).decode()
                completions = []
                for sample, completion in enumerate(result.completions):
                    text, reason = write(prompt, request, sample)
                    ids = (*text.encode(), *((0,) if reason is STOP else ()))
                    completions.append(
                        replace(completion, token_ids=ids, text=text, finish_reason=reason)
                    )
                update.results[number] = replace(result, completions=tuple(completions))
            return update

        engine.submit, engine.poll = submit_seen, poll_written  # type: ignore[method-assign]
        return engine

    return start


def run(project: Any, job: str, write: Any, **more: Any) -> list[Request]:
    seen: list[Request] = []
    project.jobs(f"name: j, input: rows.parquet, {job}", more="output: {token_ids: true}")
    project.run(start_engine=writing(write, seen), **more)
    return seen


@pytest.fixture
def rows(project: Any) -> None:
    project.rows("rows.parquet", id=["a"], text=["The Larch lamp has 300 lumens."])


@pytest.mark.usefixtures("rows")
def test_reasoning_is_no_part_of_the_text_and_kept_apart(project: Any) -> None:
    text = f"{THOUGHT}Larch is bright enough"
    run(project, "kind: summary", lambda *_: (text, STOP))
    ((kept, reasoning, verdict, ids),) = project.query(
        "select text, reasoning, verdict, output_token_ids from latest_artifacts"
    )
    assert (kept, verdict) == ("Larch is bright enough", "ok")
    assert reasoning == "The reader wants a line."
    assert ids == [*text.encode(), 0], "the ids are all that was computed"


@pytest.mark.rest
@pytest.mark.usefixtures("rows")
def test_where_none_is_written_reasoning_is_null(project: Any) -> None:
    run(project, "kind: summary", lambda *_: ("<think>\n\n</think>\n\nLarch is bright.", STOP))
    assert project.query("select text, reasoning from artifacts") == [("Larch is bright.", None)]


@pytest.mark.rest
@pytest.mark.usefixtures("rows")
def test_each_sample_has_reasoning_of_its_own(project: Any) -> None:
    def write(prompt: str, request: Request, sample: int) -> tuple[str, FinishReason]:
        thought = f"<think>Sample {sample}.</think>" if sample != 1 else ""
        return f"{thought}\nLine {sample}", STOP

    run(project, "kind: hook, params: {variants: 3}", write)
    ((data, text, reasoning),) = project.query("select data, text, reasoning from artifacts")
    assert json.loads(data) == ["Line 0", "Line 1", "Line 2"]
    assert text == "Line 0\nLine 1\nLine 2"
    assert reasoning == "Sample 0.\n\n---\n\nSample 2."


@pytest.mark.rest
@pytest.mark.usefixtures("rows")
def test_a_later_stage_reads_no_reasoning(project: Any) -> None:
    (project.folder / "staged.yaml").write_text(STAGED)

    def write(prompt: str, request: Request, sample: int) -> tuple[str, FinishReason]:
        is_first = "Draft it." in prompt
        return ("<think>First.</think>\nDraft." if is_first else "Second.</think>Text."), STOP

    seen = run(project, "kind: staged.yaml", write)
    assert [bytes(list(request.prompt_token_ids)).decode() for request in seen] == [
        "The Larch lamp has 300 lumens.\n\nDraft it.\n\n",
        "The Larch lamp has 300 lumens.\n\nPolish: Draft.\n\n",
    ]
    found = project.query("select text, reasoning from artifacts")
    assert found == [("Text.", "First.\n\n---\n\nSecond.")]


@pytest.mark.rest
@pytest.mark.usefixtures("rows")
def test_a_stage_cut_off_inside_its_reasoning_says_so(project: Any) -> None:
    (project.folder / "staged.yaml").write_text(STAGED)
    run(project, "kind: staged.yaml", lambda *_: ("<think>First", LENGTH))
    assert project.query("select code, message from failures") == [
        (
            "invalid_output",
            "stage 'draft' was cut off inside its reasoning at max_tokens 40: raise max_tokens",
        )
    ]


@pytest.mark.usefixtures("rows")
def test_unfinished_reasoning_is_cut_off_and_tried_again_with_more_room(project: Any) -> None:
    needed = 0

    def write(prompt: str, request: Request, sample: int) -> tuple[str, FinishReason]:
        is_long = request.sampling.max_tokens >= needed
        return (f"{THOUGHT}Larch is bright.", STOP) if is_long else ("<think>\nThe re", LENGTH)

    for needed, expected in (  # noqa: B007  (read by `write`)
        (80, [("Larch is bright.", "ok", [], "The reader wants a line.")]),
        (160, [("", "flagged", ["cut_off"], "The re")]),
    ):
        seen = run(project, "kind: summary, sampling: {max_tokens: 40}", write, force=True)
        assert [request.sampling.max_tokens for request in seen] == [40, 80]
        found = project.query("select text, verdict, flags, reasoning from artifacts")
        assert found == expected


@pytest.mark.rest
@pytest.mark.usefixtures("rows")
def test_reasoning_that_ends_without_a_text_is_cut_off_too(project: Any) -> None:
    seen = run(project, "kind: summary", lambda *_: ("<think>\nThe reader", STOP))
    assert len(seen) == 1, "more room would change nothing"
    found = project.query("select text, flags, finish_reason from artifacts")
    assert found == [("", ["cut_off"], "stop")]


@pytest.mark.rest
@pytest.mark.usefixtures("rows")
def test_checks_read_the_text_alone(project: Any) -> None:
    """The reasoning repeats the document and itself."""
    document = " ".join(f"w{number}" for number in range(200))
    project.rows("rows.parquet", id=["a"], text=[document])
    said = "The reader wants a line that names the lamp and its figures.\n" * 3
    written = f"<think>{document}\n{said}</think>Larch."
    run(project, "kind: summary", lambda *_: (written, STOP))
    assert project.query("select text, flags from artifacts") == [("Larch.", [])]


@pytest.mark.rest
def test_raw_text_keeps_its_reasoning(project: Any) -> None:
    project.rows("rows.parquet", id=["a"], prompt=["Larch <think>\n"])
    run(project, "kind: raw", lambda *_: ("One</think>Two", STOP))
    assert project.query("select text, reasoning from artifacts") == [("One</think>Two", None)]


@pytest.mark.rest
def test_equal_rows_share_their_reasoning(project: Any) -> None:
    project.rows("rows.parquet", id=["a", "b"], text=["same", "same"])
    run(project, "kind: summary", lambda *_: (f"{THOUGHT}Larch.", STOP))
    found = project.query("select text, reasoning from artifacts order by item_id")
    assert found == [("Larch.", "The reader wants a line.")] * 2


@pytest.mark.rest
@pytest.mark.usefixtures("rows")
def test_a_text_that_says_passages_again_gets_no_more_room(project: Any) -> None:
    said = "The Larch lamp is as bright as anyone in the trade could wish for. "
    seen = run(project, "kind: summary", lambda *_: (f"{said}\n\nSo:\n{said * 2}And", LENGTH))
    assert len(seen) == 1
    assert project.query("select flags from artifacts") == [(["cut_off", "repetition"],)]
