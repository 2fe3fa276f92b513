"""Parses completions into an artifact's text and data, by output format. Judges nothing."""

from collections.abc import Sequence

from thothy_batch.records import Completion

_QUOTES = (('"', '"'), ("'", "'"), ("“", "”"), ("„", "“"), ("„", "”"), ("‘", "’"), ("«", "»"))
_INVISIBLE = "\ufeff\u200b\u200c\u200d\u2060"


def visible(text: str) -> str:
    """Strip white space and invisible characters from both ends."""
    previous = None
    while text != previous:
        previous, text = text, text.strip().strip(_INVISIBLE)
    return text


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
        ):
            return inner.strip()
    return line


def parse_lines(completions: Sequence[Completion]) -> list[str]:
    """Return one text per completion. Checks flag a completion that has several lines."""
    return [parse_line(completion.text) for completion in completions]


def parse_sections(text: str) -> list[dict[str, str]]:
    """Return `## Heading` lines with the text below each. Text before the first is dropped."""
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
    """Return the title of a `## Heading` or `## Heading ##` line; "" for any other line.

    A regular expression that tries every split of a long run of spaces could stall the run.
    """
    title = line[2:].strip(" \t")
    if not line.startswith("##") or not line[2:].startswith((" ", "\t")):
        return ""
    return title.rstrip("#").rstrip(" \t") or title[:1]
