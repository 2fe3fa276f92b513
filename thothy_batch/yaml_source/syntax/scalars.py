"""Reads plain and quoted scalars (YAML 1.2.2, sections 7.3.1 to 7.3.3).

U+0085, U+2028 and U+2029 are ordinary characters: only `\\n` ends a line.
"""

import re

from thothy_batch.yaml_source.syntax.cursor import Cursor
from thothy_batch.yaml_source.syntax.errors import YamlError

_INDICATORS = r"\-?:,\[\]{}#&*!|>'\"%@`"
_ESCAPES = {
    "0": "\0",
    "a": "\a",
    "b": "\b",
    "t": "\t",
    "\t": "\t",
    "n": "\n",
    "v": "\v",
    "f": "\f",
    "r": "\r",
    "e": "\x1b",
    " ": " ",
    '"': '"',
    "/": "/",
    "\\": "\\",
    "N": "\x85",
    "_": "\xa0",
    "L": "\u2028",
    "P": "\u2029",
}
# All patterns match a few characters at a time: a group that repeats over a whole text would keep
# every repetition in memory.
_QUOTE_END = {"'": re.compile(r"''|'"), '"': re.compile(r'\\.|"', re.DOTALL)}
_SINGLE_TOKEN = re.compile(r"''|[ \t\n]+")
_DOUBLE_TOKEN = re.compile(
    r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[^\n])|\\\n([ \t\n]*)|[ \t\n]+"
)
_LINE = re.compile(r"\n( *)(?=([ \t]*)[^ \t\n])")
_CONTENT = re.compile(r"[^ \t\n]")
_VARIABLE = re.compile(r"\$\{[^{}\n]*\}")
_SURROGATES = re.compile("[\ud800-\udbff][\udc00-\udfff]")


class _Plain:
    """Patterns of plain scalars; inside brackets, brackets and commas end them."""

    def __init__(self, excluded: str) -> None:
        safe = rf"[^ \t\n{excluded}]"
        self.begin = re.compile(rf"[^ \t\n{_INDICATORS}]|[\-?:](?={safe})")
        ends = [r"\n", r"(?<=[ \t\n])#", rf":(?!{safe})"]
        self.end = re.compile("|".join([*ends, f"[{excluded}]"] if excluded else ends))


_BLOCK, _FLOW = _Plain(""), _Plain(r",\[\]{}")


def read_plain_line(cursor: Cursor, *, in_flow: bool = False) -> str:
    """Read the first line of a plain scalar."""
    plain = _FLOW if in_flow else _BLOCK
    if not cursor.at(plain.begin):
        raise _no_text(cursor)
    return _to_end(cursor, plain)


def read_plain_rest(cursor: Cursor, text: str, indent: int, *, in_flow: bool = False) -> str:
    """Read the further lines of a plain scalar, which have at least `indent` spaces."""
    parts = [text]
    while content := _CONTENT.search(cursor.text, cursor.pos):
        begin = cursor.pos
        gap = cursor.text[begin : content.start()]
        line_start = gap.rfind("\n") + 1
        if not line_start or len(gap) - line_start - len(gap[line_start:].lstrip(" ")) < indent:
            break
        cursor.pos = content.start()
        line = _to_end(cursor, _FLOW if in_flow else _BLOCK)
        if not line:
            cursor.pos = begin
            break
        parts += [_folded(gap.count("\n") - 1), line]
    return "".join(parts)


def _to_end(cursor: Cursor, plain: _Plain) -> str:
    """Read to the end of the line or scalar, less the white space before it."""
    end = plain.end.search(cursor.text, cursor.pos)
    while cursor.has_variables and end and end[0] == "{":
        variable = _VARIABLE.match(cursor.text, max(cursor.pos, end.start() - 1))
        if variable is None:
            break
        end = plain.end.search(cursor.text, variable.end())
    assert end is not None
    line = cursor.text[cursor.pos : end.start()].rstrip(" \t")
    cursor.pos += len(line)
    return line


def read_quoted(cursor: Cursor, indent: int) -> str:
    """Read a scalar in quotes; its further lines have at least `indent` spaces."""
    begin, quote = cursor.pos, cursor.char
    tokens = _QUOTE_END[quote].finditer(cursor.text, begin + 1)
    end = next((token.end() for token in tokens if token[0] == quote), None)
    if end is None:
        raise cursor.fault(f"the quote {quote} that opens here is not closed")
    for line in _LINE.finditer(cursor.text, begin, end):
        if len(line[1]) < indent:
            cursor.pos = line.end()
            if line[2]:
                raise cursor.tab_fault()
            hint = f"indent it by {indent} or more"
            raise cursor.fault("a line of a text in quotes is not indented enough", hint=hint)
    cursor.quoted.append((begin, end))
    cursor.pos = end
    if quote == '"':
        return _read_double(cursor, begin + 1, end - 1)
    return _SINGLE_TOKEN.sub(_single_token, cursor.text[begin + 1 : end - 1])


def _single_token(token: re.Match[str]) -> str:
    return "'" if token[0] == "''" else _white(token[0])


def _read_double(cursor: Cursor, begin: int, end: int) -> str:
    def replaced(token: re.Match[str]) -> str:
        escape, joined = token.groups()
        if escape is not None:
            return _unescape(cursor, escape, begin + token.start())
        return _white(token[0]) if joined is None else "\n" * joined.count("\n")

    text = _DOUBLE_TOKEN.sub(replaced, cursor.text[begin:end])
    # JSON writes a character beyond U+FFFF as two escapes.
    return _SURROGATES.sub(_one_character, text)


def _one_character(pair: re.Match[str]) -> str:
    return pair[0].encode("utf-16", "surrogatepass").decode("utf-16")


def _unescape(cursor: Cursor, escape: str, index: int) -> str:
    if len(escape) == 1:
        if escape in _ESCAPES:
            return _ESCAPES[escape]
        hint = r"write \\ for a backslash, or use single quotes"
        raise cursor.fault(rf"unknown escape '\{escape}' in double quotes", index, hint)
    code = int(escape[1:], 16)
    if code > 0x10FFFF:
        raise cursor.fault(rf"'\{escape}' is no character", index)
    return chr(code)


def _white(text: str) -> str:
    """Return the value of white space in quotes: line breaks are folded."""
    num_breaks = text.count("\n")
    return _folded(num_breaks - 1) if num_breaks else text


def _folded(num_empty: int) -> str:
    """Return the value of a line break that `num_empty` empty lines follow."""
    return "\n" * num_empty or " "


def _no_text(cursor: Cursor) -> YamlError:
    char = cursor.char
    if cursor.at_end or char == "\n":
        return cursor.fault("a value is missing")
    if char == "%":
        hint = (
            "directives stand at the beginning of the file; put a text that begins with % in quotes"
        )
        return cursor.fault("'%' cannot begin a text", hint=hint)
    if char in ",]}":
        return cursor.fault(
            f"{char!r} is not expected here", hint="put a text that begins with it in quotes"
        )
    if char in "-?:":
        return cursor.fault(f"'{char} ' is not allowed here", hint="put such a text in quotes")
    return cursor.fault(f"{char!r} cannot begin a text", hint="put such a text in quotes")
