"""Completions to an artifact's text and data, by the kind's output format. Nothing is judged."""

from collections.abc import Sequence

from thothy_batch.records import Completion

_QUOTES = (('"', '"'), ("'", "'"), ("“", "”"), ("„", "“"), ("„", "”"), ("‘", "’"), ("«", "»"))
_INVISIBLE = "\ufeff\u200b\u200c\u200d\u2060"


def visible(text: str) -> str:
    """The text without the white space and the invisible characters around it."""
    previous = None
    while text != previous:
        previous, text = text, text.strip().strip(_INVISIBLE)
    return text


def parse_line(text: str) -> str:
    """One completion of format `lines`: stripped, without one pair of quotes around it."""
    line = visible(text)
    for opening, closing in _QUOTES:
        inner = line[1:-1]
        if (
            len(line) > 2
            and line[0] == opening
            and line[-1] == closing
            and opening not in inner
            and closing not in inner
        ):
            return inner.strip()
    return line


def parse_lines(completions: Sequence[Completion]) -> list[str]:
    """One text per completion. A completion of several lines stays as it is: checks flag it."""
    return [parse_line(completion.text) for completion in completions]


def parse_sections(text: str) -> list[dict[str, str]]:
    """`## Heading` lines and the text below each. What stands before the first one is left out."""
    sections: list[dict[str, str]] = []
    body: list[str] = []
    for line in text.splitlines():
        title = _heading(line.strip())
        if not title:
            body.append(line)
            continue
        if sections:
            sections[-1]["body"] = "\n".join(body).strip()
        sections.append({"heading": title.strip("*: \t"), "body": ""})
        body = []
    if sections:
        sections[-1]["body"] = "\n".join(body).strip()
    return sections


def _heading(line: str) -> str:
    """The title of a `## Heading` or `## Heading ##`; "" where the line is none.

    Without a pattern: one that tries every split of a long run of spaces could hold up the night.
    """
    title = line[2:].strip(" \t")
    if not line.startswith("##") or not line[2:].startswith((" ", "\t")):
        return ""
    return title.rstrip("#").rstrip(" \t") or title[:1]
