"""Reasoning before a text: cut off by its tags, whatever tokens they are made of."""

import pytest
import small_tokenizers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from thothy_batch.model.tokenizer import ReasoningSplitter, Tokenizer
from thothy_batch.model.tokenizer.reasoning import TAGS
from thothy_batch.records import Completion, FinishReason

pytestmark = pytest.mark.few(2)  # of each test's cases
HARMONY = ("<|channel|>", "<|message|>", "<|start|>", "<|return|>")
WAYS = ("as text", "as tokens", "as special tokens")
PROMPT = "<|im_start|>assistant\n"


@pytest.fixture(scope="module", params=["byte-level", "sentencepiece"])
def write(request: pytest.FixtureRequest) -> object:
    return (
        small_tokenizers.byte_level
        if request.param == "byte-level"
        else small_tokenizers.sentencepiece
    )


@pytest.fixture(scope="module", params=WAYS)
def tokenizer(
    request: pytest.FixtureRequest, write: object, tmp_path_factory: pytest.TempPathFactory
) -> Tokenizer:
    """Tags spelled in characters, as added tokens, or as special ones, which have no text."""
    marks = [mark for tags in TAGS[:-1] for mark in (tags.opening, tags.closing)]
    special = (*small_tokenizers.SPECIAL, *HARMONY)
    folder = tmp_path_factory.mktemp("tokenizer")
    if request.param == "as special tokens":
        write(folder, (), (*special, *marks))  # type: ignore[operator]
    else:
        write(folder, marks if request.param == "as tokens" else (), special)  # type: ignore[operator]
    return Tokenizer.from_dir(folder)


def ids_of(tokenizer: Tokenizer, text: str) -> list[int]:
    """Encode a completion, which goes on after its prompt: without a space before it."""
    before = tokenizer.encode("\n")
    ids = tokenizer.encode("\n" + text)
    assert ids[: len(before)] == before
    return ids[len(before) :]


def split(
    tokenizer: Tokenizer,
    written: str,
    *,
    prompt: str = PROMPT,
    end: str = "<|im_end|>",
    reason: FinishReason = FinishReason.STOP,
) -> Completion:
    """Split what a model wrote, its end token included."""
    ids = ids_of(tokenizer, written)
    text = tokenizer.decode_whole(ids)
    if end:
        ids.append(tokenizer.special_token_ids[end])
    completion = Completion(tuple(ids), text, reason)
    return ReasoningSplitter(tokenizer).split(completion, tokenizer.encode(prompt))


def check(tokenizer: Tokenizer, found: Completion, reasoning: str, text: str) -> None:
    assert (found.reasoning, found.text) == (reasoning, text)
    assert not found.ends_in_reasoning
    assert tokenizer.decode(found.token_ids).strip() == text, "the ids are those of the text"


@pytest.mark.parametrize("tags", TAGS, ids=lambda tags: tags.opening)
def test_reasoning_before_a_text_is_cut_off(tokenizer: Tokenizer, tags: object) -> None:
    for between in ("", "\n\n"):
        written = f"{tags.opening}A line. Ok?{tags.between}{tags.closing}{between}Larch is €5."  # type: ignore[attr-defined]
        check(tokenizer, split(tokenizer, written), "A line. Ok?", "Larch is €5.")
        check(tokenizer, split(tokenizer, written, end=""), "A line. Ok?", "Larch is €5.")


@pytest.mark.parametrize("tags", TAGS, ids=lambda tags: tags.opening)
def test_empty_reasoning_is_cut_off(tokenizer: Tokenizer, tags: object) -> None:
    written = f"{tags.opening}\n\n{tags.closing}\n\nLarch."  # type: ignore[attr-defined]
    check(tokenizer, split(tokenizer, written), "", "Larch.")


@pytest.mark.parametrize("tags", TAGS, ids=lambda tags: tags.opening)
def test_a_prompt_that_opens_reasoning_needs_no_tag_in_the_completion(
    tokenizer: Tokenizer, tags: object
) -> None:
    prompt = f"{PROMPT}{tags.opening}\n"  # type: ignore[attr-defined]
    for first in ("", tags.opening, f"\n{tags.opening}\n"):  # type: ignore[attr-defined]
        written = f"{first}A line.{tags.closing}\nLarch."  # type: ignore[attr-defined]
        check(tokenizer, split(tokenizer, written, prompt=prompt), "A line.", "Larch.")
        found = split(tokenizer, f"{first}A line", prompt=prompt)
        assert (found.reasoning, found.text) == ("A line", "")
        assert (found.token_ids, found.ends_in_reasoning) == ((), True)


def test_a_prompt_that_closes_reasoning_opens_none(tokenizer: Tokenizer) -> None:
    prompt = f"{PROMPT}<think>\n\n</think>\n\n"
    check(tokenizer, split(tokenizer, "Larch.", prompt=prompt), "", "Larch.")


def test_a_closing_tag_alone_ends_reasoning(tokenizer: Tokenizer) -> None:
    check(tokenizer, split(tokenizer, "A line.\n</think>\nLarch."), "A line.", "Larch.")
    check(tokenizer, split(tokenizer, "</think>Larch."), "", "Larch.")


def test_a_closing_tag_of_the_source_is_text(tokenizer: Tokenizer) -> None:
    written, prompt = "The tag </think> ends it.", "What does </think> do?" + PROMPT
    completion = split(tokenizer, written, prompt=prompt)
    assert (completion.reasoning, completion.ends_in_reasoning) == ("", False)
    assert completion.text == tokenizer.decode(ids_of(tokenizer, written))


@pytest.mark.parametrize(
    "written",
    [
        "Models write <think> first, then </think>.",
        "Larch.\n<think>\nMore\n</think>",
        "A <think>b",
        "In code: `<|channel|>` and [THINK].",
    ],
)
def test_tags_later_in_a_text_are_text(tokenizer: Tokenizer, written: str) -> None:
    ids = ids_of(tokenizer, written)
    completion = Completion(tuple(ids), tokenizer.decode(ids), FinishReason.STOP)
    found = ReasoningSplitter(tokenizer).split(completion, tokenizer.encode(PROMPT))
    assert found == completion


@pytest.mark.parametrize("reason", list(FinishReason))
def test_a_completion_may_end_inside_its_reasoning(
    tokenizer: Tokenizer, reason: FinishReason
) -> None:
    found = split(tokenizer, "<think>\nA line and", reason=reason)
    assert (found.reasoning, found.text, found.token_ids) == ("A line and", "", ())
    assert found.ends_in_reasoning
    assert found.finish_reason is reason


def test_blocks_in_a_row_are_all_reasoning(tokenizer: Tokenizer) -> None:
    written = "<think>One.</think>\n<think>Two.</think> more</think>Larch <think>."
    found = split(tokenizer, written)
    assert found.reasoning == "One.\n\nTwo.\n\nmore"
    assert found.text.startswith("Larch")


def test_channels_are_cut_off_to_the_last(tokenizer: Tokenizer) -> None:
    step = "<|end|><|start|>assistant"
    analysis, final = "<|channel|>analysis<|message|>", "<|channel|>final<|message|>"
    written = f"{analysis}One.{step}{analysis}Two.{step}{final}Larch."
    check(tokenizer, split(tokenizer, written, end="<|return|>"), "One.\nTwo.", "Larch.")
    check(tokenizer, split(tokenizer, f"{final}Larch.", end="<|return|>"), "", "Larch.")
    found = split(tokenizer, f"{analysis}One and", end="")
    assert (found.reasoning, found.ends_in_reasoning) == ("One and", True)


def test_a_stop_string_inside_reasoning_ends_it_without_text(tokenizer: Tokenizer) -> None:
    ids = ids_of(tokenizer, "<think>A line. STOP")
    text = tokenizer.decode(ids).removesuffix(" STOP")
    completion = Completion(tuple(ids), text, FinishReason.STOP)
    found = ReasoningSplitter(tokenizer).split(completion, tokenizer.encode(PROMPT))
    assert found.reasoning.startswith("A line.")
    assert (found.text, found.ends_in_reasoning) == ("", True)


def test_a_stop_string_after_reasoning_stays_cut_off(tokenizer: Tokenizer) -> None:
    ids = ids_of(tokenizer, "<think>A line.</think>Larch.STOP")
    text = tokenizer.decode(ids).removesuffix("STOP")
    completion = Completion(tuple(ids), text, FinishReason.STOP)
    found = ReasoningSplitter(tokenizer).split(completion, tokenizer.encode(PROMPT))
    assert (found.reasoning, found.text) == ("A line.", "Larch.")


LETTERS = st.text(st.sampled_from("ab <>/€é\n."), max_size=20)


@given(before=LETTERS, after=LETTERS, opens=st.booleans())
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_nothing_is_lost_and_nothing_added(
    tokenizer: Tokenizer, before: str, after: str, opens: bool
) -> None:
    """Reasoning and text together are what was written, but the tags and white space."""
    written = f"{'<think>' if opens else ''}{before}</think>{after}"
    found = split(tokenizer, written)
    assert found.reasoning == before.strip()
    assert found.text == after.lstrip()
