"""Separates the reasoning that a model writes before its text.

Only a leading block is reasoning: tags later in a text are part of it. A model may write both tags,
go on from an opening tag at the end of its prompt, or write the closing one alone.
"""

from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Protocol

from thothy_batch.records import Completion, TokenIds

_PROMPT_TAIL = 24  # tokens of a prompt's end: an opening tag and white space


@dataclass(frozen=True, slots=True)
class ReasoningTags:
    """The marks around reasoning, special tokens or not."""

    opening: str
    closing: str
    between: str = ""  # what joins one block to the next and to the closing mark


TAGS = (
    ReasoningTags("<think>", "</think>"),  # DeepSeek R1, Qwen3, QwQ, SmolLM3, GLM, OLMo, Nemotron
    ReasoningTags("<thinking>", "</thinking>"),
    ReasoningTags("<thought>", "</thought>"),  # EXAONE Deep
    ReasoningTags("<reasoning>", "</reasoning>"),
    ReasoningTags("<seed:think>", "</seed:think>"),  # Seed-OSS
    ReasoningTags("[THINK]", "[/THINK]"),  # Magistral
    ReasoningTags("◁think▷", "◁/think▷"),  # Kimi
    ReasoningTags("<|START_THINKING|>", "<|END_THINKING|>"),  # Command A
    ReasoningTags(
        "<|channel|>analysis<|message|>",  # gpt-oss
        "<|channel|>final<|message|>",
        between="<|end|><|start|>assistant",
    ),
)


class Decoder(Protocol):
    """The part of a tokenizer that is needed here."""

    @property
    def special_token_ids(self) -> Mapping[str, int]: ...

    def decode(self, token_ids: TokenIds, skip_special: bool = True) -> str: ...

    def decode_whole(self, token_ids: TokenIds, skip_special: bool = True) -> str: ...


class ReasoningSplitter:
    """Splits the completions of one model."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        special = decoder.special_token_ids
        marks = [mark for tags in TAGS for mark in (tags.opening, tags.closing)]
        self._mark_ids = {i for text, i in special.items() if any(text in mark for mark in marks)}
        self._special_texts = {i: text for text, i in special.items()}
        self._tags_before = lru_cache(maxsize=1024)(self._find_tags_before)

    def split(self, completion: Completion, prompt_token_ids: TokenIds) -> Completion:
        """Return the completion without its reasoning, which it then holds apart.

        Its token ids are those of the text. Where the completion ends inside its reasoning, text
        and token ids are empty.
        """
        ids = completion.token_ids
        has_marks = not self._mark_ids.isdisjoint(ids)
        written = completion.text
        if has_marks:  # special tokens are not part of the text
            written = self._decoder.decode_whole(ids, skip_special=False)
        opened_by = self._tags_before(tuple(prompt_token_ids[-_PROMPT_TAIL:]))
        blocks = leading_blocks(
            written, opened_by, lambda mark: mark in self._decoder.decode(prompt_token_ids, False)
        )
        if not blocks.parts:
            return completion
        special = [self._special_texts[i] for i in self._special_texts.keys() & set(ids)]
        reasoning = _joined(blocks.parts, special if has_marks else [])
        if blocks.is_open:
            return replace(
                completion, token_ids=(), text="", reasoning=reasoning, ends_in_reasoning=True
            )
        num, text = self._text_after(completion, blocks.end, skip_special=not has_marks)
        return replace(completion, token_ids=ids[num:], text=text.lstrip(), reasoning=reasoning)

    def _text_after(
        self, completion: Completion, end: int, *, skip_special: bool
    ) -> tuple[int, str]:
        """Return the number of ids that wrote the first `end` characters, and the text after."""
        ids = completion.token_ids

        def written(num: int) -> str:
            return self._decoder.decode_whole(ids[:num], skip_special)

        num = bisect_left(range(len(ids)), end, key=lambda num: len(written(num)))
        if skip_special:
            return num, completion.text[end:]
        begun = written(num)[end:]  # by the last of these ids
        return num, begun + completion.text[len(self._decoder.decode_whole(ids[:num])) :]

    def _find_tags_before(self, prompt_tail: tuple[int, ...]) -> ReasoningTags | None:
        """Return the tags whose opening one ends the prompt."""
        text = self._decoder.decode(prompt_tail, skip_special=False).rstrip()
        return next((tags for tags in TAGS if text.endswith(tags.opening)), None)


@dataclass(frozen=True, slots=True)
class LeadingBlocks:
    """The blocks of reasoning at the start of a text. `end`: characters up to the text after."""

    parts: tuple[str, ...] = ()
    end: int = 0
    is_open: bool = False  # the last one has no closing tag


def leading_blocks(
    text: str, opened_by: ReasoningTags | None, is_quoted: Callable[[str], bool]
) -> LeadingBlocks:
    """Find the blocks of reasoning at the start of a text.

    `opened_by`: the tags that the prompt opened. `is_quoted`: whether the prompt holds a closing
    tag, so that one without an opening tag may be the source's own.
    """
    parts: list[str] = []
    at, tags = 0, opened_by
    while True:
        begin = start = len(text) - len(text[at:].lstrip())
        if tags is None:
            tags = next((tags for tags in TAGS if text.startswith(tags.opening, start)), None)
        if tags is not None and text.startswith(tags.opening, start):
            begin = start + len(tags.opening)
        tags = tags or _closed_only(text, start, is_quoted)
        if tags is None:
            return LeadingBlocks(tuple(parts), at)
        end = text.find(tags.closing, begin)
        part = text[begin:] if end < 0 else text[begin:end]
        if tags.between:
            part = part.replace(tags.between, "\n").replace(tags.opening, "")
        parts.append(part)
        if end < 0:
            return LeadingBlocks(tuple(parts), len(text), is_open=True)
        at, tags = end + len(tags.closing), None


def _closed_only(text: str, start: int, is_quoted: Callable[[str], bool]) -> ReasoningTags | None:
    """Return the tags of the first closing one that has no opening one before it."""
    first, found = len(text), None
    for tags in TAGS:
        place = text.find(tags.closing, start, first)
        if place < 0 or text.find(tags.opening, start, place) >= 0 or is_quoted(tags.closing):
            continue
        first, found = place, tags
    return found


def _joined(parts: tuple[str, ...], special_texts: list[str]) -> str:
    """Join the parts, without the texts of special tokens."""
    kept = []
    for part in parts:
        for text in special_texts:
            part = part.replace(text, "")
        kept.append(part.strip())
    return "\n\n".join(part for part in kept if part)
