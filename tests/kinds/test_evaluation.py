"""Completions to artifacts: parsing and every check."""

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thothy_batch import kinds
from thothy_batch.kinds.copied import MIN_RUN, copied_runs
from thothy_batch.kinds.kind import Stage
from thothy_batch.kinds.loading import builtin_kinds
from thothy_batch.kinds.parsing import parse_line, parse_sections
from thothy_batch.records import Completion, FinishReason

KINDS = {name: kinds.load_kind(name, Path()) for name in builtin_kinds()}
STOP, LENGTH, REPETITION = FinishReason.STOP, FinishReason.LENGTH, FinishReason.REPETITION


def encode(text: str) -> list[int]:
    """A token per word: enough for what the checks compare."""
    return [sum(word.encode()) * 31 + len(word) for word in text.split()]


def evaluate(kind_name: str, *texts: str, reason: FinishReason = STOP, **variables: Any) -> Any:
    kind = KINDS[kind_name]
    text = variables.setdefault("text", "A lamp of 300 lumens.")
    variables |= {"items": [{"text": text}], "target_lang": "de"}
    variables["params"] = kinds.resolve_params(kind, {})
    prompt = [] if kind.raw else kinds.render(kind, 0, variables).messages
    ids = encode(" ".join(message["content"] for message in prompt))
    completions = [Completion(tuple(encode(t)), t, reason) for t in texts]
    return kinds.evaluate(kind, completions, prompt_token_ids=ids, variables=variables)


def words(num: int, seed: int = 0) -> str:
    rng = random.Random(seed)
    return " ".join(f"w{rng.randrange(10_000)}" for _ in range(num))


def test_text_is_stripped_and_ok() -> None:
    found = evaluate("summary", "\n The lamp gives 300 lumens.\n")
    assert found == kinds.ParsedOutput("The lamp gives 300 lumens.")
    assert (found.verdict, found.flags, found.failure, found.data) == ("ok", [], "", None)


@pytest.mark.parametrize("name", ["summary", "translation", "report"])
@pytest.mark.parametrize("text", ["", " \n\t ", "\u200b\ufeff"])
def test_empty_output_fails(name: str, text: str) -> None:
    assert evaluate(name, text).failure == "the model's output is empty"


def test_cut_off_and_repetition_are_flagged_by_finish_reason() -> None:
    assert evaluate("summary", "The lamp gi", reason=LENGTH).flags == ["cut_off"]
    found = evaluate("summary", "on and on and on", reason=REPETITION)
    assert (found.flags, found.verdict, found.failure) == (["repetition"], "flagged", "")


def test_length_that_was_asked_for_is_no_cut() -> None:
    completion = Completion((1,), "a", LENGTH)
    variables = {"text": "b", "params": {}}
    found = kinds.evaluate(
        KINDS["summary"],
        [completion],
        prompt_token_ids=[2],
        variables=variables,
        ignore_eos=True,
    )
    assert found.flags == []


def test_raw_text_stays_as_it_is() -> None:
    assert evaluate("raw", "  as it is\n", reason=LENGTH) == kinds.ParsedOutput("  as it is\n")
    assert evaluate("raw", "").failure == ""


def test_hooks_are_a_list_and_lines() -> None:
    found = evaluate("hook", ' "One lamp!" ', "“Two lamps”", "Three lamps")
    assert found.data == ["One lamp!", "Two lamps", "Three lamps"]
    assert found.text == "One lamp!\nTwo lamps\nThree lamps"
    assert found.verdict == "ok"


@pytest.mark.parametrize(
    ("texts", "flags"),
    [
        (("One", "Two", "one"), ["count"]),
        (("One", "Two", ""), ["count"]),
        (("One", "Two", "Three\nFour"), ["one_line", "count"]),
        (("One", "Two", "Three\n"), []),
    ],
)
def test_empty_double_and_broken_hooks_are_flagged(
    texts: tuple[str, ...], flags: list[str]
) -> None:
    found = evaluate("hook", *texts)
    assert (found.flags, found.failure) == (flags, "")


def test_hooks_fail_only_when_all_are_empty() -> None:
    assert evaluate("hook", "", " ", "").failure == "the model's output is empty"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('"a"', "a"),
        ("'a b'", "a b"),
        ("„a“", "a"),
        ("«a»", "a"),
        ('""', '""'),
        ('"a" and "b"', '"a" and "b"'),
        ('"a', '"a'),
        ('""a""', '""a""'),
        (" a ", "a"),
    ],
)
def test_one_pair_of_quotes_is_taken_off(text: str, line: str) -> None:
    assert parse_line(text) == line


GOOD_REPORT = (
    "## Overview\n\nOne.\n\n## Findings\n\n- Two\n### more\n- x\n\n## Recommendation\nBuy."
)


def test_report_is_parsed_into_its_sections() -> None:
    found = evaluate("report", GOOD_REPORT)
    assert found.data == {
        "sections": [
            {"heading": "Overview", "body": "One."},
            {"heading": "Findings", "body": "- Two\n### more\n- x"},
            {"heading": "Recommendation", "body": "Buy."},
        ]
    }
    assert (found.text, found.verdict) == (GOOD_REPORT, "ok")


@pytest.mark.parametrize(
    "text",
    [
        "No headings at all.",
        GOOD_REPORT.replace("## Findings", "## Results"),
        GOOD_REPORT.replace("Buy.", ""),
        "## Findings\na\n## Overview\nb\n## Recommendation\nc",
        GOOD_REPORT + "\n## Overview\nagain",
        GOOD_REPORT.replace("## Overview", "# Overview"),
    ],
)
def test_missing_empty_and_misplaced_sections_are_flagged(text: str) -> None:
    found = evaluate("report", text)
    assert (found.flags, found.failure) == (["sections"], "")


@pytest.mark.parametrize(
    "heading", ["## overview", "##  Overview ##", "## **Overview**:", " ## Overview"]
)
def test_headings_may_be_written_a_little_differently(heading: str) -> None:
    text = GOOD_REPORT.replace("## Overview", heading)
    assert evaluate("report", text).verdict == "ok"


def test_long_lines_of_a_report_are_parsed_at_once() -> None:
    # A model that loops writes such lines; a pattern that tries each split takes days over one.
    spaces = " " * 50_000
    for line in (f"##{spaces}a{spaces}b", f"## a{'#' * 50_000}{spaces}b", "##" + " #" * 50_000):
        (section,) = parse_sections(line)
        assert line.replace(" ", "").removeprefix("##").startswith(section["heading"][:1])


@pytest.mark.parametrize(
    ("line", "headings"),
    [
        ("## a # b ##", ["a # b"]),
        ("## C# \t", ["C#"]),
        ("## #", ["#"]),
        ("##\tTab", ["Tab"]),
        ("##", []),
        ("##a", []),
        ("### a", []),
    ],
)
def test_which_lines_are_headings(line: str, headings: list[str]) -> None:
    assert [section["heading"] for section in parse_sections(line)] == headings


@given(st.text())
def test_any_text_can_be_parsed(text: str) -> None:
    parse_line(text)
    for section in parse_sections(text):
        assert "\n## " not in section["body"]


@pytest.mark.parametrize("num_words", [40, 200, 2000])
@pytest.mark.parametrize("name", ["summary", "translation", "hook"])
def test_an_echo_of_the_document_is_flagged(name: str, num_words: int) -> None:
    text = words(num_words)
    assert "copied_prompt" in evaluate(name, text, text=text).flags


def test_a_document_copied_up_to_max_tokens_is_flagged() -> None:
    text = words(1000)
    start = " ".join(text.split()[:150])
    assert evaluate("summary", start, reason=LENGTH, text=text).flags == [
        "cut_off",
        "copied_prompt",
    ]


@pytest.mark.parametrize("name", ["summary", "hook", "translation", "report"])
def test_an_echo_of_system_or_instruction_is_flagged(name: str) -> None:
    kind = KINDS[name]
    for template in (kind.system, kind.stages[0].instruction):
        text = template.split("{{")[0].strip() + " and so on"
        assert "copied_prompt" in evaluate(name, text).flags


def test_one_sentence_of_a_document_is_a_legitimate_summary() -> None:
    sentences = [words(45, seed) for seed in range(4)]
    assert evaluate("summary", sentences[1], text=". ".join(sentences)).verdict == "ok"


def test_short_outputs_are_no_copies() -> None:
    text = "Acme X200, 40 W, 3.5 kg, Alba"
    assert evaluate("translation", text, text=text).verdict == "ok"


def test_a_short_document_is_copied_only_when_nothing_changed() -> None:
    text = words(MIN_RUN - 1)
    assert "copied_prompt" in evaluate("translation", text.upper(), text=text).flags
    assert evaluate("translation", text + " neu", text=text).verdict == "ok"


def test_an_output_with_words_of_its_own_is_no_copy() -> None:
    text = words(300)
    own = words(40, seed=9) + " " + " ".join(text.split()[:120])
    assert evaluate("summary", own, text=text).verdict == "ok"


def test_a_last_stage_may_keep_its_draft() -> None:
    draft = words(150)
    stages = (Stage("draft", "Write."), Stage("polish", "Shorten: {{ previous }}"))
    kind = kinds.Kind("own", "hash", "item", stages, checks={"copied_prompt": "flag"})
    completion = Completion(tuple(encode(draft)), draft, STOP)
    prompt = encode("Shorten: " + draft)
    found = kinds.evaluate(
        kind, [completion], prompt_token_ids=prompt, variables={"previous": draft}
    )
    assert found.flags == []


def test_a_failing_check_names_its_reason_and_a_flagging_one_does_not_fail() -> None:
    checks = {"cut_off": "fail", "copied_prompt": "flag"}
    kind = kinds.Kind("own", "hash", "item", (Stage("a", "Go."),), checks=checks)
    completion = Completion((1, 2), "cut", LENGTH)
    found = kinds.evaluate(kind, [completion], prompt_token_ids=[5], variables={})
    assert found.failure == "the output was cut off at max_tokens"


@given(
    st.lists(st.integers(0, 50), max_size=120),
    st.integers(0, 120),
    st.integers(MIN_RUN, 80),
    st.lists(st.integers(51, 99), max_size=20),
)
def test_every_run_of_the_prompt_is_found(
    prompt: list[int], begin: int, length: int, own: list[int]
) -> None:
    run = prompt[begin : begin + length]
    found = sum(copied_runs(prompt, [*own, *run, *own]))
    # Unknown tokens around the run are never counted; all of a long enough run is.
    assert found == (len(run) if len(run) >= MIN_RUN else 0)


@given(st.lists(st.integers(0, 2), max_size=200), st.lists(st.integers(0, 2), max_size=200))
def test_runs_never_overlap_or_exceed_the_output(prompt: list[int], output: list[int]) -> None:
    runs = copied_runs(prompt, output)
    assert all(run >= MIN_RUN for run in runs)
    assert sum(runs) <= len(output)


def test_copied_runs_stay_near_linear_on_monotonous_tokens() -> None:
    # Each of these pairs is quadratic (billions of comparisons) where every place is tried.
    assert sum(copied_runs([1] * 100_000, [1] * 20_000)) == 20_000
    broken = ([1] * 31 + [2]) * 3000
    assert copied_runs([1] * 100_000, broken) == []
