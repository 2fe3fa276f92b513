"""A position in the text of one document, and how it moves over white space and comments.

Lines end with `\\n` alone, the last one too; tabs never count as indentation.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from thothy_batch.yaml_source.syntax.errors import UnsupportedYamlError, YamlError

TAB_HINT = "indent with spaces"
MAX_DEPTH = 100
MAX_VALUES = 200_000

_CONTENT = re.compile(r"[^ \t\n]")
_LINE_END = re.compile(r"[ \t]*(?:(?<=[ \t\n])#[^\n]*)?(?=\n)")
_BEFORE_COMMENT = ("", " ", "\t", "\n")
_WHITE = re.compile(r"[ \t]*")
_SPACES = re.compile(r" *")


class Cursor:
    """Text and position. `has_variables`: whether `${...}` has a meaning."""

    def __init__(self, text: str, pos: int = 0, *, has_variables: bool = False) -> None:
        self.text = text
        self.pos = pos
        self.has_variables = has_variables
        self.quoted: list[tuple[int, int]] = []
        self._depth = 0
        self._num_values = 0

    @property
    def at_end(self) -> bool:
        return self.pos >= len(self.text)

    @property
    def char(self) -> str:
        """The next character; empty at the end."""
        return self.text[self.pos : self.pos + 1]

    def at(self, pattern: re.Pattern[str]) -> bool:
        return pattern.match(self.text, self.pos) is not None

    def skip(self) -> bool:
        """Pass white space, comments and line breaks; return True if a line break was passed."""
        text, begin = self.text, self.pos
        while content := _CONTENT.search(text, self.pos):
            self.pos = content.start()
            # A comment begins a line or follows white space.
            if text[self.pos] != "#" or text[self.pos - 1 : self.pos] not in _BEFORE_COMMENT:
                break
            self.pos = text.index("\n", self.pos)
        else:
            self.pos = len(text)
        return text.find("\n", begin, self.pos) >= 0

    def line_start(self) -> int:
        return self.text.rfind("\n", 0, self.pos) + 1

    def column(self) -> int:
        return self.pos - self.line_start()

    def indent(self) -> int:
        """Return the number of spaces at the beginning of the line."""
        begin = self.line_start()
        match = _SPACES.match(self.text, begin)
        assert match is not None
        return match.end() - begin

    def end_line(self) -> None:
        """Move to the end of the line, on which nothing but a comment may follow."""
        match = _LINE_END.match(self.text, self.pos)
        if match:
            self.pos = match.end()
            return
        white = _WHITE.match(self.text, self.pos)
        assert white is not None
        self.pos = white.end()
        raise self.fault(*self._surplus())

    def _surplus(self) -> tuple[str, int, str]:
        """Return message, index and hint for what follows the end of a value."""
        rest = self.text[self.pos : self.text.index("\n", self.pos)]
        if rest.startswith("#"):
            return "a comment needs a space before its '#'", self.pos, ""
        if rest.startswith(": ") or rest == ":":
            hint = (
                "put a text that holds ': ' in quotes; give neighbouring keys the same indentation"
            )
            return "': ' is not allowed here", self.pos, hint
        return f"{shorten(rest)} is not expected after the end of the value", self.pos, ""

    def fault(self, message: str, index: int | None = None, hint: str = "") -> YamlError:
        return YamlError(message, self.pos if index is None else index, hint)

    def tab_fault(self) -> YamlError:
        return self.fault("a tab is not allowed as indentation", hint=TAB_HINT)

    def count_value(self) -> None:
        """Keep a text that is no manifest from being read for minutes."""
        self._num_values += 1
        if self._num_values > MAX_VALUES:
            raise UnsupportedYamlError(f"holds more than {MAX_VALUES:,} values", self.pos)

    @contextmanager
    def nested(self) -> Iterator[None]:
        """Bound the depth of what is read inside."""
        if self._depth > MAX_DEPTH:
            raise UnsupportedYamlError("is nested too deeply", self.pos)
        self._depth += 1
        yield
        self._depth -= 1


def shorten(text: str) -> str:
    """Quote the beginning of a text."""
    return repr(text if len(text) <= 30 else text[:27] + "...")
