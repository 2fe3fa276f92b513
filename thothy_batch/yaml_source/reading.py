"""Reads YAML text into plain values with line numbers.

The YAML 1.2 core schema applies: only `true` and `false` are booleans (`no` is text), there are no
base-60 numbers, `0123` is 123, times and dates stay text, and merge keys (`<<`) do not exist.
"""

import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from thothy_batch.errors import ManifestError, Problem

Keys = tuple[str | int, ...]

_TAG = "tag:yaml.org,2002:"
# The plain scalars of the core schema (YAML 1.2.2, section 10.3.2), tried in this order.
_PLAIN = (
    ("null", re.compile(r"null|Null|NULL|~|")),
    ("bool", re.compile(r"true|True|TRUE|false|False|FALSE")),
    ("int", re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")),
    ("float", re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")),
    ("float", re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")),
)
# Aliases copy their target; without a limit a few lines could stand for billions of values.
_MAX_VALUES = 200_000
# Every value records the keys that lead to it; a chain of aliases makes these long.
_MAX_DEPTH = 100


@dataclass(frozen=True, slots=True)
class Located:
    """The values of a YAML file and the line of each key and list entry.

    `problems` are faults that left a readable value (duplicate keys, unknown tags); `validate`
    returns them with its own.
    """

    value: object
    path: str
    lines: Mapping[Keys, int]
    problems: tuple[Problem, ...] = ()

    def line(self, *keys: str | int) -> int | None:
        """Return the line of the value at `keys`, or of its nearest existing parent."""
        return self.lines.get(self.resolve(keys))

    def resolve(self, keys: Iterable[str | int]) -> Keys:
        """Return the part of `keys` that exists in the file; other keys are skipped."""
        found: Keys = ()
        for key in keys:
            if (*found, key) in self.lines:
                found = (*found, key)
        return found


def load_yaml(path: Path) -> Located:
    """Read a YAML file. Raises ManifestError if it cannot be read or is not YAML."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        why = "there is no such file" if isinstance(error, FileNotFoundError) else error.strerror
        raise ManifestError([Problem(f"cannot be read: {why}", path=str(path))]) from error
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        problem = Problem("is not UTF-8 text", str(path), line, "save the file as UTF-8")
        raise ManifestError([problem]) from error
    return parse_yaml(text, path)


def parse_yaml(text: str, path: str | Path = "") -> Located:
    """Parse one YAML document. Raises ManifestError, with the line, on anything else."""
    line_at = _line_counter(text)
    try:
        return _Builder(str(path), line_at).build(yaml.compose(text, _CoreLoader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = line_at(mark.index) if mark else None
        problem = Problem(f"not valid YAML: {_yaml_fault(error)}", str(path), line)
    except yaml.reader.ReaderError as error:
        line = line_at(int(error.position))
        problem = Problem("holds a character that YAML does not allow", str(path), line)
    except yaml.YAMLError as error:
        problem = Problem(f"not valid YAML: {error}", str(path))
    except RecursionError:
        problem = Problem("is nested too deeply", str(path))
    except (ValueError, ArithmeticError, LookupError, AttributeError, TypeError) as error:
        # Escapes such as "\UFFFFFFFF" raise errors inside the parser.
        problem = Problem(f"not valid YAML: {error}", str(path))
    raise ManifestError([problem])


def _line_counter(text: str) -> Callable[[int], int]:
    """Return a function from character index to line, counted from 1.

    PyYAML also ends lines at U+0085, U+2028 and U+2029; YAML 1.2 and editors do not.
    """
    ends = [match.end() for match in re.finditer("\r\n?|\n", text)]
    return lambda index: bisect_right(ends, index) + 1


class _CoreLoader(yaml.SafeLoader):
    """Composes nodes whose plain scalars have the tags of the core schema."""

    def resolve(self, kind: type[yaml.Node], value: Any, implicit: Any) -> str:
        if kind is yaml.MappingNode:
            return _TAG + "map"
        if kind is yaml.SequenceNode:
            return _TAG + "seq"
        if implicit[0]:
            for tag, pattern in _PLAIN:
                if pattern.fullmatch(value):
                    return _TAG + tag
        return _TAG + "str"


class _Builder:
    """Turns YAML nodes into plain values and records the line of each."""

    def __init__(self, path: str, line_at: Callable[[int], int]) -> None:
        self._path = path
        self._line_at = line_at
        self._lines: dict[Keys, int] = {}
        self._problems: list[Problem] = []
        self._num_values = 0
        self._open: set[int] = set()

    def build(self, root: yaml.Node | None) -> Located:
        value = None if root is None else self._value(root, ())
        return Located(value, self._path, self._lines, tuple(self._problems))

    def _value(self, node: yaml.Node, keys: Keys) -> object:
        self._num_values += 1
        if id(node) in self._open:
            raise ManifestError([self._fault(node, "aliases repeat themselves without end")])
        if self._num_values > _MAX_VALUES:
            message = f"holds more than {_MAX_VALUES:,} values, those that aliases repeat included"
            raise ManifestError([self._fault(node, message)])
        if len(keys) > _MAX_DEPTH:
            raise ManifestError([self._fault(node, "is nested too deeply")])
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, keys)
            assert isinstance(node, yaml.SequenceNode)
            self._check_tag(node, "seq")
            values = []
            for i, child in enumerate(node.value):
                self._lines[(*keys, i)] = self._line_at(child.start_mark.index)
                values.append(self._value(child, (*keys, i)))
            return values
        finally:
            self._open.discard(id(node))

    def _mapping(self, node: yaml.MappingNode, keys: Keys) -> dict[str, object]:
        self._check_tag(node, "map")
        values: dict[str, object] = {}
        for key_node, child in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self._problems.append(self._fault(key_node, "a key has to be one word"))
                continue
            key = self._text(key_node)
            line = self._line_at(key_node.start_mark.index)
            if key in values:
                first = self._lines[(*keys, key)]
                self._problems.append(
                    self._fault(key_node, f"key {key!r} stands twice", f"first on line {first}")
                )
                continue
            self._lines[(*keys, key)] = line
            values[key] = self._value(child, (*keys, key))
        return values

    def _scalar(self, node: yaml.ScalarNode) -> object:
        text = self._text(node)
        kind = node.tag.removeprefix(_TAG)
        pattern_fits = any(tag == kind and p.fullmatch(text) for tag, p in _PLAIN)
        if kind == "str":
            return text
        if not pattern_fits:
            self._problems.append(self._fault(node, f"{text!r} cannot be read as {node.tag!r}"))
            return None
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() == "true"
        if kind == "float":
            return float(
                text.replace(".", "", 1) if text.lower().endswith(("inf", "nan")) else text
            )
        if len(text) > 400:  # Python refuses to convert thousands of digits
            self._problems.append(self._fault(node, "a number with too many digits"))
            return None
        return int(text, 0) if text[:2] in ("0o", "0x") else int(text)

    def _text(self, node: yaml.ScalarNode) -> str:
        text = str(node.value)
        if any("\ud800" <= char <= "\udfff" for char in text):
            self._problems.append(self._fault(node, "holds half of a surrogate pair"))
            return text.encode("utf-8", "replace").decode()
        if "\0" in text:  # never meant in a path, name or template, and refused by file systems
            self._problems.append(self._fault(node, "holds a NUL character"))
            return text.replace("\0", "")
        return text

    def _check_tag(self, node: yaml.Node, kind: str) -> None:
        if node.tag != _TAG + kind:
            self._problems.append(self._fault(node, f"tag {node.tag!r} is not supported"))

    def _fault(self, node: yaml.Node, message: str, hint: str = "") -> Problem:
        return Problem(message, self._path, self._line_at(node.start_mark.index), hint)


def _yaml_fault(error: yaml.MarkedYAMLError) -> str:
    parts = [str(part) for part in (error.context, error.problem) if part]
    text = "; ".join(parts).replace("\n", " ")
    if "cannot start any token" in text and "'\\t'" in text:
        text += " (indent with spaces, not with tabs)"
    return text
