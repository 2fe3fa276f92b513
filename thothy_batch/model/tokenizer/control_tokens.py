"""Tells control tokens from ordinary added tokens and marks the texts of the former in messages.

Added tokens of a vocabulary are of two sorts. Control tokens frame a conversation: a message that
spells one out must not become one. The others stand for plain text (Gemma's `<h1>` and `<table>`,
runs of spaces), and a message that holds them has the ids that the model was trained with.
"""

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

Message = dict[str, str]

_FIRST_MARK = 0xF0000  # private-use characters, which no meaningful text contains
_FRAMED = re.compile(r"<[|｜].*[|｜]>", re.DOTALL)  # <|im_end|>, and DeepSeek's wide bars
_BRACKETED = re.compile(r"[<\[{◁].*[>\]}▷]", re.DOTALL)  # not "user", which templates write too


def control_texts(
    added: Iterable[tuple[str, bool]], stop_texts: Collection[str], template_text: str
) -> set[str]:
    """Return the texts of the control tokens among the added ones, (text, is special).

    They are: special tokens, tokens that end a completion, tokens written like `<|this|>`, tokens
    in brackets that the chat template writes (`template_text`: its literal text), and the
    counterpart of each (`</s>` of `<s>`).
    """
    texts = {text: special for text, special in added if text and not text.isspace()}
    found = {
        text
        for text, special in texts.items()
        if special
        or text in stop_texts
        or _FRAMED.fullmatch(text)
        or (text in template_text and _BRACKETED.fullmatch(text))
    }
    return found | {text for text in texts if _counterpart(text) in found}


def _counterpart(text: str) -> str:
    """Return the opening tag of a closing one, and the other way round."""
    if text.startswith(("</", "[/")):
        return text[0] + text[2:]
    return f"{text[0]}/{text[1:]}"


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a rendered prompt; a marked one is the text of a control token in a message."""

    text: str
    is_marked: bool


class ControlTokens:
    """Finds the texts of control tokens in messages and marks them."""

    def __init__(self, texts: Collection[str]) -> None:
        longest_first = sorted(texts, key=lambda text: (-len(text), text))
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        # Almost no text contains one: two characters of each are searched before the long pattern.
        self._prefixes = sorted({text[:2] for text in texts})

    def mark(self, messages: Sequence[Message]) -> tuple[Sequence[Message], str]:
        """Return the messages with marks, and the two mark characters ("" if nothing was found)."""
        contents = [message["content"] for message in messages]
        if not any(self._found_in(content) for content in contents):
            return messages, ""
        begin, end = _unused_characters(contents)
        marked = [
            {**message, "content": self._pattern.sub(f"{begin}\\g<0>{end}", message["content"])}
            for message in messages
        ]
        return marked, begin + end

    def split(self, text: str, marks: str) -> list[Piece]:
        """Cut a rendered prompt at its marks, the first piece never a marked one.

        A template may cut a text between a token and its mark; such a lone mark is dropped.
        """
        begin, end = marks[0], marks[1]
        cuts = re.split(f"{begin}({self._pattern.pattern}){end}|[{marks}]", text)
        pieces = [Piece(part or "", bool(i % 2)) for i, part in enumerate(cuts)]
        return pieces[:1] + [piece for piece in pieces[1:] if piece.text]

    def _found_in(self, content: str) -> bool:
        if not any(prefix in content for prefix in self._prefixes):
            return False
        return self._pattern.search(content) is not None


def _unused_characters(contents: Iterable[str]) -> tuple[str, str]:
    used = set().union(*contents)
    free = (chr(code) for code in range(_FIRST_MARK, _FIRST_MARK + 0xFFFD) if chr(code) not in used)
    return next(free), next(free)
