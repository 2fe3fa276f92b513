"""Parses completions into an artifact and applies the kind's checks."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from thothy_batch.kinds.copied import copied_runs
from thothy_batch.kinds.kind import Kind
from thothy_batch.kinds.parsing import (
    num_lines,
    parse_line,
    parse_lines,
    parse_sections,
    visible,
)
from thothy_batch.kinds.prompt import with_optional
from thothy_batch.kinds.said_again import count_passages, said_again
from thothy_batch.kinds.templates import literal_head, render_template
from thothy_batch.records import Completion, FinishReason, TokenIds

# An output is a copy if runs from the prompt cover more than this share of its tokens.
COPIED_SHARE = 0.8
# One run of this many tokens is a copied passage in any document. With shorter runs the output must
# be about as long as the document: one copied sentence is a legitimate short summary.
LONG_RUN = 96
# A shorter output may rightly equal its document: "Acme X200, 40 W" in any language.
MIN_EQUAL_CHARS = 40
# Shorter fixed text of a template ("Summarise:") can occur in an honest output.
MIN_HEAD_CHARS = 24
MAX_HEAD_CHARS = 60
MAX_QUOTED_CHARS = 60


@dataclass(frozen=True, slots=True)
class ParsedOutput:
    """The artifact of a finished request, or the reason why it failed (invalid_output)."""

    text: str
    data: object = None  # list of texts (lines), {"sections": [...]}, None
    verdict: str = "ok"  # ok | flagged
    flags: list[str] = field(default_factory=list)
    failure: str = ""


@dataclass(frozen=True, slots=True)
class _Checked:
    """The completions of an entry and what a check may compare them with."""

    kind: Kind
    completions: Sequence[Completion]
    prompt_token_ids: TokenIds
    variables: Mapping[str, object]
    lines: list[str]
    sections: list[dict[str, str]]
    ignore_eos: bool


def evaluate(
    kind: Kind,
    completions: Sequence[Completion],
    *,
    prompt_token_ids: TokenIds,
    variables: Mapping[str, object],
    ignore_eos: bool = False,
) -> ParsedOutput:
    """Parse the completions of a kind's last stage and apply its checks.

    `variables` are those of the rendered prompt. With `ignore_eos` the length was requested, so
    nothing counts as cut off.
    """
    if kind.raw:
        return ParsedOutput(text=completions[0].text)
    lines = parse_lines(completions) if kind.output.format == "lines" else []
    text = "\n".join(lines) if lines else visible(completions[0].text)
    sections = parse_sections(text) if kind.output.format == "sections" else []
    checked = _Checked(kind, completions, prompt_token_ids, variables, lines, sections, ignore_eos)
    found = {name: why for name in kind.checks if (why := _CHECKS[name](checked))}
    failures = [why for name, why in found.items() if kind.checks[name] == "fail"]
    data: object = {"sections": sections} if kind.output.format == "sections" else None
    return ParsedOutput(
        text=text,
        data=lines if kind.output.format == "lines" else data,
        verdict="flagged" if found else "ok",
        flags=list(found),
        failure="; ".join(failures),
    )


def _empty(checked: _Checked) -> str:
    if any(visible(completion.text) for completion in checked.completions):
        return ""
    ends_in_reasoning = any(each.ends_in_reasoning for each in checked.completions)
    if ends_in_reasoning and "cut_off" in checked.kind.checks:
        return ""  # which says why
    return "the model's output is empty"


def _cut_off(checked: _Checked) -> str:
    if any(completion.ends_in_reasoning for completion in checked.completions):
        return "the output ends inside the model's reasoning"
    reasons = [completion.finish_reason for completion in checked.completions]
    if checked.ignore_eos or FinishReason.LENGTH not in reasons:
        return ""
    return "the output was cut off at max_tokens"


def _repetition(checked: _Checked) -> str:
    """Find loops, and passages said again more often than the source says its own."""
    if FinishReason.REPETITION in [each.finish_reason for each in checked.completions]:
        return "the output repeats itself"
    texts = [completion.text for completion in checked.completions]
    if not any(said_again(text, Counter()) for text in texts):
        return ""
    allowed = count_passages(_document(checked))
    if checked.kind.entry == "target_lang":  # the same passages in other words
        allowed[""] = max(allowed.values(), default=1)
    passage = next((found for text in texts if (found := said_again(text, allowed))), "")
    return f"the output says again: {passage[:MAX_QUOTED_CHARS]!r}" if passage else ""


def _one_line(checked: _Checked) -> str:
    several = sum(1 for line in checked.lines if num_lines(line) > 1)
    return f"{several} of {len(checked.lines)} outputs have more than one line" if several else ""


def _count(checked: _Checked) -> str:
    """Find unusable lines: fewer good ones than samples requested."""
    seen = set()
    for line in checked.lines:
        if line and num_lines(line) == 1:
            seen.add(" ".join(line.casefold().split()))
    asked = len(checked.lines)
    return "" if len(seen) == asked else f"{len(seen)} different lines instead of {asked}"


def _sections(checked: _Checked) -> str:
    wanted = [name.casefold() for name in checked.kind.output.sections]
    found = [section["heading"].casefold() for section in checked.sections]
    missing = [name for name in wanted if name not in found]
    if missing:
        return f"the output lacks the section {missing[0]!r}"
    if [name for name in found if name in wanted] != wanted:
        return "the sections are out of order or stand twice"
    empty = [s["heading"] for s in checked.sections if not s["body"]]
    return f"the section {empty[0]!r} is empty" if empty else ""


def _copied_prompt(checked: _Checked) -> str:
    """Find a repeated instruction, or an output made of runs copied from the prompt.

    With several stages only the former counts: a last stage may rightly keep most of a draft.
    """
    heads = [literal_head(checked.kind.system), literal_head(checked.kind.stages[-1].instruction)]
    heads = [head[:MAX_HEAD_CHARS] for head in heads if len(head) >= MIN_HEAD_CHARS]
    for completion in checked.completions:
        if any(head in completion.text for head in heads):
            return "the output repeats the instruction"
        if len(checked.kind.stages) > 1:
            continue
        if _copies_document(checked, completion):
            return "the output repeats the document"
    return ""


def _copies_document(checked: _Checked, completion: Completion) -> bool:
    text = parse_line(completion.text)
    if len(text) < MIN_EQUAL_CHARS:
        return False
    runs = copied_runs(checked.prompt_token_ids, completion.token_ids)
    in_runs = sum(runs) > COPIED_SHARE * len(completion.token_ids)
    if in_runs and max(runs) >= LONG_RUN:
        return True
    document = _document(checked)
    if in_runs:
        return len(text) >= COPIED_SHARE * len(document)
    return text.casefold().split() == document.casefold().split()


def _document(checked: _Checked) -> str:
    values = with_optional(checked.kind, checked.variables)
    return render_template(checked.kind.document, values, what="document")


_CHECKS: dict[str, Callable[[_Checked], str]] = {
    "empty": _empty,
    "cut_off": _cut_off,
    "repetition": _repetition,
    "copied_prompt": _copied_prompt,
    "one_line": _one_line,
    "count": _count,
    "sections": _sections,
}
