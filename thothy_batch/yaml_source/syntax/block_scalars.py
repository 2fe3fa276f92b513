"""Reads block scalars, `|` and `>` (YAML 1.2.2, section 8.1)."""

import re
from itertools import pairwise

from thothy_batch.yaml_source.syntax.cursor import Cursor

_HEADER = re.compile(r"[|>](?:([1-9])([+-]?)|([+-])([1-9]?))?(?=[ \t\n])")
_EMPTY_LINE = re.compile(r"( *)\n")
_SPACES = re.compile(r" *")


def read_block_scalar(cursor: Cursor, indent: int) -> str:
    """Read a block scalar; its lines are indented deeper than `indent`."""
    begin = cursor.pos
    is_folded = cursor.char == ">"
    header = _HEADER.match(cursor.text, begin)
    if header is None:
        hint = "a digit 1 to 9 for the indentation and + or - for the last line break may follow it"
        raise cursor.fault(f"'{cursor.char}' does not begin a block text here", hint=hint)
    cursor.pos = header.end()
    cursor.end_line()
    cursor.pos += 1
    digit, chomping = header[1] or header[4], header[2] or header[3]
    own = max(indent, 0) + int(digit) if digit else _detect_indent(cursor, indent)
    lines = _read_lines(cursor, own)
    num_empty = 0
    while lines and not lines[-1]:
        lines.pop()
        num_empty += 1
    if not lines:
        return "\n" * num_empty if chomping == "+" else ""
    text = _fold(lines) if is_folded else "\n".join(lines)
    if chomping == "-":
        return text
    return text + "\n" * (1 + num_empty if chomping == "+" else 1)


def _detect_indent(cursor: Cursor, parent: int) -> int:
    """Return the indentation of the first line that is not empty."""
    pos, longest, longest_at = cursor.pos, 0, cursor.pos
    while match := _EMPTY_LINE.match(cursor.text, pos):
        if len(match[1]) > longest:
            longest, longest_at = len(match[1]), pos
        pos = match.end()
    spaces = _SPACES.match(cursor.text, pos)
    assert spaces is not None
    own = spaces.end() - pos
    if own <= parent or spaces.end() == len(cursor.text):
        return max(longest, parent + 1)
    if longest > own:
        hint = "remove its spaces, or give the indentation as a digit, for example |2"
        message = "an empty line of a block text has more spaces than the first line of the text"
        raise cursor.fault(message, longest_at, hint)
    return own


def _read_lines(cursor: Cursor, indent: int) -> list[str]:
    """Read all lines with that many spaces, and the empty lines between them and behind."""
    text, lines = cursor.text, []
    while not cursor.at_end:
        end = text.index("\n", cursor.pos)
        line = text[cursor.pos : end]
        if line[:indent].strip(" "):
            if line.lstrip(" ").startswith("\t"):
                raise cursor.tab_fault()
            break
        lines.append(line[indent:])
        cursor.pos = end + 1
    return lines


def _fold(lines: list[str]) -> str:
    """Join neighbouring lines by spaces; those that begin with white space keep their breaks."""
    places = [i for i, line in enumerate(lines) if line]
    parts = ["\n" * places[0], lines[places[0]]]
    for here, there in pairwise(places):
        keeps = lines[here][0] in " \t" or lines[there][0] in " \t"
        parts.append("\n" * (there - here - (not keeps)) or " ")
        parts.append(lines[there])
    return "".join(parts)
