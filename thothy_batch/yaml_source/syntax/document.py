"""Reads the one document of a text, with its directives and markers (YAML 1.2.2, section 9)."""

import re
from bisect import bisect_left

from thothy_batch.yaml_source.syntax.block import BlockReader
from thothy_batch.yaml_source.syntax.cursor import Cursor, shorten
from thothy_batch.yaml_source.syntax.errors import UnsupportedYamlError, YamlError
from thothy_batch.yaml_source.syntax.nodes import Node

_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff]")
# In quotes alone, where JSON allows them.
_UNPRINTABLE = re.compile("[\x7f-\x84\x86-\x9f\ufeff\ufffe\uffff]")
_MARKER = re.compile(r"^(?:---|\.\.\.)(?=[ \t\n])", re.MULTILINE)
_VERSION = re.compile(r"%YAML[ \t]+([0-9]+)\.([0-9]+)[ \t]*(?:(?<=[ \t])#[^\n]*)?\n")
_TAG = re.compile(
    r"%TAG[ \t]+(!(?:[0-9A-Za-z-]*!)?)[ \t]+([^ \t\n]+)[ \t]*(?:(?<=[ \t])#[^\n]*)?\n"
)
_DIRECTIVE = re.compile(r"%([^ \t\n]+)[^\n]*\n")
_TOO_MANY = "holds more than one document: a second one begins here"


def read_document(text: str, *, has_variables: bool = False) -> Node | None:
    """Return the root of a YAML text, None where it holds comments alone.

    `has_variables`: a plain text in brackets may hold `${...}`, which YAML refuses there.
    All lines end with `\\n`. Raises YamlError.
    """
    # The end of the file ends its last line, in block scalars too.
    text += "" if text.endswith("\n") else "\n"
    if match := _CONTROL.search(text):
        raise _unprintable(match)
    handles, begin, is_bare = _read_prologue(text)
    if begin == len(text):
        return None
    marker = _MARKER.search(text, begin)
    end = marker.start() if marker else len(text)
    cursor = Cursor(text[:end], begin, has_variables=has_variables)
    root = BlockReader(cursor, handles).node(-1, is_new_line=is_bare)
    cursor.skip()
    if not cursor.at_end:
        rest = cursor.text[cursor.pos : cursor.text.index("\n", cursor.pos)]
        raise cursor.fault(f"{shorten(rest)} does not continue what stands above")
    for match in _UNPRINTABLE.finditer(text):
        place = bisect_left(cursor.quoted, match.span())
        if not place or cursor.quoted[place - 1][1] <= match.start():
            raise _unprintable(match)
    if marker:
        _expect_end(text, marker)
    return root


def _read_prologue(text: str) -> tuple[dict[str, str], int, bool]:
    """Return tag handles, the index at which the document begins, and whether without `---`."""
    cursor = Cursor(text)
    handles: dict[str, str] = {}
    num_directives, has_version = 0, False
    while True:
        cursor.skip()
        cursor.pos = cursor.line_start() if not cursor.at_end else cursor.pos
        if cursor.char == "%":
            has_version = _read_directive(cursor, handles, has_version)
            num_directives += 1
            continue
        marker = _MARKER.match(text, cursor.pos)
        if marker and marker[0] == "---":
            return handles, marker.end(), False
        if num_directives:
            raise cursor.fault("a line --- is missing after the directives")
        if marker is None:
            return handles, cursor.pos, True
        cursor.pos = marker.end()
        cursor.end_line()


def _read_directive(cursor: Cursor, handles: dict[str, str], has_version: bool) -> bool:
    """Read a directive; return True if a version is given. Unknown directives mean nothing."""
    text, begin = cursor.text, cursor.pos
    any_directive = _DIRECTIVE.match(text, begin)
    if any_directive is None:
        raise cursor.fault("a directive has no name")
    cursor.pos = any_directive.end()
    if any_directive[1] == "YAML":
        version = _VERSION.match(text, begin)
        if version is None:
            raise cursor.fault("the directive is not of the form %YAML 1.2", begin)
        if has_version:
            raise cursor.fault("%YAML stands twice", begin)
        if version[1] != "1":
            message = f"YAML {version[1]}.{version[2]} is not supported, only YAML 1.2"
            raise UnsupportedYamlError(message, begin)
        return True
    if any_directive[1] == "TAG":
        tag = _TAG.match(text, begin)
        if tag is None:
            raise cursor.fault("the directive is not of the form %TAG !name! prefix", begin)
        if tag[1] in handles:
            raise cursor.fault(f"the tag handle {tag[1]} is declared twice", begin)
        handles[tag[1]] = tag[2]
    return has_version


def _expect_end(text: str, marker: re.Match[str]) -> None:
    """Refuse what follows the end of the document."""
    cursor = Cursor(text, marker.start())
    while (here := _MARKER.match(text, cursor.pos)) and here[0] == "...":
        cursor.pos = here.end()
        cursor.end_line()
        cursor.skip()
    if not cursor.at_end:
        raise UnsupportedYamlError(_TOO_MANY, cursor.pos, "write one file for each")


def _unprintable(match: re.Match[str]) -> YamlError:
    code = ord(match[0])
    escape = rf"\x{code:02x}" if code < 0x100 else rf"\u{code:04x}"
    hint = f'write "{escape}" in double quotes' if code else ""
    message = f"holds a character that YAML does not allow here: U+{code:04X}"
    return YamlError(message, match.start(), hint)
