"""Real checkpoints that write given tokens: what becomes of them in the store."""

from pathlib import Path
from typing import Any

import pytest
import scripted_model

pytestmark = pytest.mark.rest
CHATML = scripted_model.CHATML
OPENED = CHATML.replace("assistant\\n'", "assistant\\n<think>\\n'")
WORDS = [f" word{number}" for number in range(600)]


@pytest.fixture
def run(project: Any, tmp_path: Path) -> Any:
    """Run a job on a checkpoint and read its artifact: text to output tokens."""

    def run(pieces: list[str], job: str = "kind: summary", **more: Any) -> Any:
        folder = scripted_model.write(tmp_path / "model", pieces, **more)
        project.rows("rows.parquet", id=["a"], text=["Larch"], prompt=["Larch\n"])
        project.jobs(
            f"name: j, input: rows.parquet, {job}",
            model=str(folder),
            more="engine: {impl: reference, device: cpu, num_blocks: 64}",
        )
        project.run()
        return project.query(
            "select text, reasoning, flags, finish_reason, output_tokens from artifacts "
            "order by created_at desc"
        )[0]

    return run


def test_tags_that_are_special_tokens_are_found_by_their_ids(run: Any) -> None:
    pieces = ["<think>", "A line.", "</think>", "\n\n", "Larch", " is bright."]
    found = run(pieces, special=("<think>", "</think>"))
    assert found == ("Larch is bright.", "A line.", [], "stop", 7)


def test_a_template_that_opens_reasoning_needs_no_tag(run: Any) -> None:
    found = run(["A line.", "</think>", "Larch."], template=OPENED)
    assert found == ("Larch.", "A line.", [], "stop", 4)


@pytest.mark.parametrize(
    ("sampling", "text", "num"),
    [
        ('stop: ["<|mark|>"]', "One", 2),
        ('stop: ["One<|mark|>"]', "", 2),
        ("stop: [wo]", "OneT", 3),
        ("stop_token_ids: [268]", "One", 2),
        ("{}", "OneTwo", 4),
    ],
)
def test_a_stop_may_be_a_special_token_text_or_an_id(
    run: Any, sampling: str, text: str, num: int
) -> None:
    sampling = sampling if sampling == "{}" else f"{{{sampling}}}"
    found = run(["One", "<|mark|>", "Two"], f"kind: raw, sampling: {sampling}")
    assert found == (text, None, [], "stop", num)


def test_each_end_id_of_the_generation_config_ends_a_completion(run: Any) -> None:
    pieces = ["One", "<|end|>", "Two"]
    assert run(pieces, eos=("<|im_end|>", "<|end|>"))[0] == "One"


@pytest.mark.parametrize("period", [1, 80, 512])
def test_a_loop_is_repetition_and_not_tried_again(run: Any, project: Any, period: int) -> None:
    pieces = ["Larch", *WORDS[:period]]
    found = run(pieces, "kind: summary, sampling: {max_tokens: 1700}", loop_from=1)
    assert found[2:4] == (["repetition"], "repetition")
    assert found[4] <= 1 + max(64, 3 * period) + 16
    assert project.query("select attempt, wasted_tokens from artifacts") == [(1, 0)]


@pytest.mark.parametrize("more", ["kind: raw, ", "kind: summary, "])
def test_a_loop_that_was_asked_for_goes_on(run: Any, more: str) -> None:
    sampling = "ignore_eos: true, " if "summary" in more else ""
    job = f"{more}sampling: {{{sampling}max_tokens: 300}}"
    assert run(["a", "b"], job, loop_from=0)[3:] == ("length", 300)


def test_half_a_character_is_left_out(run: Any) -> None:
    """The euro sign takes two tokens, of which the first is the last of the completion."""
    pieces = ["5", "âĤ", "¬"]
    assert run(pieces, "kind: raw, sampling: {max_tokens: 2}")[0] == "5"
    assert run(pieces, "kind: raw, sampling: {max_tokens: 3}")[0] == "5€"


def test_stop_ids_beyond_the_vocabulary_are_refused(run: Any, project: Any) -> None:
    from thothy_batch.errors import ManifestError

    with pytest.raises(ManifestError, match="stop_token_ids holds 99999: ids of this model go"):
        run(["One"], "kind: raw, sampling: {stop_token_ids: [99999]}")
