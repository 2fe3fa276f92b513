"""Parses completions into an artifact's text and data, by output format. Judges nothing.

White space and marks are taken off both ends of a text, never a part of a word: an apostrophe, a
joiner that shapes the last letter, a number or list mark stay.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence

from thothy_batch.records import Completion

_QUOTES = (('"', '"'), ("'", "'"), ("“", "”"), ("„", "“"), ("„", "”"), ("‘", "’"), ("«", "»"))
_APOSTROPHES = "'‘"  # opening quotes that a word may begin with
# Words that begin with an apostrophe: English, Dutch, Afrikaans.
_ELISIONS = frozenset(
    ("bout", "cause", "cos", "coz", "cuz", "em", "gainst", "k", "kay", "m", "n", "neath", "nuff")
    + ("round", "s", "t", "til", "till", "tis", "twas", "tween", "twere", "twill", "twixt")
    + ("twould", "un")
)
_WORD = re.compile(r"[^\W_]+")
# Characters without a shape. Joiners are not among them: they shape the letter before them.
_INVISIBLE = "\ufeff\u200b\u2060"
_VARIATION_SELECTORS = "\ufe0e\ufe0f"
# Where a line must break (Unicode standard annex 14), and where Markdown's lines end.
_BREAK = re.compile("\r\n|[\n\v\f\r\x85\u2028\u2029]")
_MARKDOWN_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n|\Z)")


def visible(text: str) -> str:
    """Strip white space and invisible characters from both ends; "" if nothing else is there."""
    previous = None
    while text != previous:
        previous, text = text, text.strip().strip(_INVISIBLE)
    return text if any(map(_has_shape, text)) else ""


def _has_shape(character: str) -> bool:
    """Return whether a character alone shows anything."""
    category = unicodedata.category(character)
    is_blank = category[0] in "CZ" and category not in ("Cn", "Co")
    return not is_blank and character not in _VARIATION_SELECTORS


def num_lines(text: str) -> int:
    """Return the number of lines, by Unicode's mandatory breaks."""
    return len(_BREAK.findall(text)) + 1


def parse_line(text: str) -> str:
    """Parse one completion of format `lines`: strip it and remove one pair of quotes."""
    line = visible(text)
    for opening, closing in _QUOTES:
        inner = line[1:-1]
        if (
            len(line) > 2
            and line[0] == opening
            and line[-1] == closing
            and opening not in inner
            and closing not in inner
            and not (opening in _APOSTROPHES and _begins_with_elision(inner))
        ):
            return visible(inner)
    return line


def _begins_with_elision(text: str) -> bool:
    """Return whether an apostrophe may stand before the text: 'Twas, 'n', '90s."""
    word = _WORD.match(text)
    return word is not None and (word[0].casefold() in _ELISIONS or word[0][0].isdecimal())


def parse_lines(completions: Sequence[Completion]) -> list[str]:
    """Return one text per completion. Checks flag a completion that has several lines."""
    return [parse_line(completion.text) for completion in completions]


def parse_sections(text: str) -> list[dict[str, str]]:
    """Return `## Heading` lines with the text below each. Text before the first is dropped."""
    headings = list(_headings(text))
    ends = [begin for begin, _, _ in headings[1:]] + [len(text)]
    return [
        {"heading": _plain_title(title), "body": visible(text[begin:end])}
        for (_, begin, title), end in zip(headings, ends, strict=False)
    ]


def _headings(text: str) -> Iterator[tuple[int, int, str]]:
    """Yield begin, end and title of each heading line."""
    for line in _MARKDOWN_LINE.finditer(text):
        if title := _heading(line[0].strip()):
            yield line.start(), line.end(), title


def _heading(line: str) -> str:
    """Return the title of a `## Heading` or `## Heading ##` line; "" for any other line.

    A regular expression that tries every split of a long run of spaces could stall the run.
    """
    title = line[2:].strip(" \t")
    if not line.startswith("##") or not line[2:].startswith((" ", "\t")):
        return ""
    without = title.rstrip("#")
    # Marks at the end close a heading only after a space: "## C#".
    return without.rstrip(" \t") if without.endswith((" ", "\t")) else title


def _plain_title(title: str) -> str:
    """Return a title without emphasis and the colon after it: `**Overview**:`."""
    title = title.rstrip(": \t") or title
    for mark in ("***", "**", "*"):
        inner = title[len(mark) : -len(mark)]
        if title.startswith(mark) and title.endswith(mark) and inner:
            return inner.strip(" \t").rstrip(": \t") or inner
    return title
