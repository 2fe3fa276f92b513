"""Turns the nodes of a YAML document into plain values by the core schema of YAML 1.2.

Only `true` and `false` are booleans (`no` is text), there are no base-60 numbers, `0123` is 123,
times and dates stay text, and `<<` is a key like any other. Keys are their text: `1` and `"1"` are
one key. A plain scalar gets its type after its variables have got their values; keys have none.
"""

import re
from collections.abc import Callable
from dataclasses import replace

from thothy_batch.errors import Problem
from thothy_batch.yaml_source.located import Keys, Located
from thothy_batch.yaml_source.syntax import (
    CORE,
    MAX_DEPTH,
    MAX_VALUES,
    AliasNode,
    MappingNode,
    Node,
    ScalarNode,
    SequenceNode,
    UnsupportedYamlError,
)
from thothy_batch.yaml_source.variables import VariableFault, Variables, expand

# The plain scalars of the core schema (YAML 1.2.2, section 10.3.2), tried in this order.
_PLAIN = (
    ("null", re.compile(r"null|Null|NULL|~|")),
    ("bool", re.compile(r"true|True|TRUE|false|False|FALSE")),
    ("int", re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")),
    ("float", re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")),
    ("float", re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")),
)
_MAX_DIGITS = 400  # Python refuses to convert thousands of digits
_MAX_EXPANDED = 16 << 20  # characters of all texts that hold variables
_SURROGATE = re.compile("[\ud800-\udfff]")


def build_values(
    root: Node | None,
    path: str,
    line_at: Callable[[int], int],
    source: str = "",
    variables: Variables | None = None,
) -> Located:
    """Return the values of a document; `line_at` gives the line of an index into `source`.

    Raises UnsupportedYamlError where aliases or variables repeat too much.
    """
    builder = _Builder(path, line_at, source, variables)
    value = None if root is None else builder.value(root, ())
    unreadable = frozenset(builder.unreadable)
    problems = tuple(builder.problems)
    return Located(value, path, builder.lines, problems, unreadable, builder.texts)


class _Builder:
    """Collects the line of each value, and the problems that leave a readable value."""

    def __init__(
        self,
        path: str,
        line_at: Callable[[int], int],
        source: str,
        variables: Variables | None,
    ) -> None:
        self._path = path
        self._line_at = line_at
        self._source = source
        self._variables = variables
        self.lines: dict[Keys, int] = {}
        self.problems: list[Problem] = []
        self.unreadable: set[Keys] = set()
        self.texts: dict[Keys, str] = {}
        self._num_values = 0
        self._num_expanded = 0  # characters

    def value(self, node: Node, keys: Keys) -> object:
        node = _target(node)
        # Aliases copy their target: a few lines could stand for billions of values.
        self._num_values += 1
        if self._num_values > MAX_VALUES:
            message = f"holds more than {MAX_VALUES:,} values, those that aliases repeat included"
            raise UnsupportedYamlError(message, node.start)
        # Every value records the keys that lead to it; a chain of aliases makes these long.
        if len(keys) > MAX_DEPTH:
            raise UnsupportedYamlError("is nested too deeply", node.start)
        if isinstance(node, ScalarNode):
            expanded = self._expanded(node, keys)
            value = self._scalar(expanded)
            if expanded is not node and not isinstance(value, str):
                self.texts[keys] = expanded.text
            return value
        if isinstance(node, MappingNode):
            return self._mapping(node, keys)
        self._check_tag(node, "seq")
        values = []
        for i, child in enumerate(node.items):
            self.lines[(*keys, i)] = self._line_at(child.start)
            values.append(self.value(child, (*keys, i)))
        return values

    def _mapping(self, node: MappingNode, keys: Keys) -> dict[str, object]:
        self._check_tag(node, "map")
        values: dict[str, object] = {}
        for key_node, child in node.pairs:
            target = _target(key_node)
            if not isinstance(target, ScalarNode):
                hint = "put a text that begins with [ or { in quotes"
                message = "lists and mappings as keys are not supported: a key has to be text"
                self._report(key_node, message, hint)
                continue
            if not target.text and self._kind(target) == "null":
                self._report(key_node, "a key is missing before ':'", 'write "" for an empty text')
                continue
            self._scalar(target)
            key = self._text(target)
            if key in values:
                hint = f"first on line {self.lines[(*keys, key)]}"
                self._report(key_node, f"key {key!r} stands twice", hint)
                continue
            self.lines[(*keys, key)] = self._line_at(key_node.start)
            values[key] = self.value(child, (*keys, key))
        return values

    def _expanded(self, node: ScalarNode, keys: Keys) -> ScalarNode:
        """Put the values of variables into a text."""
        if self._variables is None or "${" not in node.text:
            return node
        parts, faults = expand(node.text, self._variables)
        # Values are long at times: a small file could stand for billions of characters.
        self._num_expanded += sum(map(len, parts))
        if self._num_expanded > _MAX_EXPANDED:
            message = f"holds variables of more than {_MAX_EXPANDED:,} characters in all"
            raise UnsupportedYamlError(message, node.start)
        begin = node.start
        for fault in faults:
            begin = self._report_variable(fault, begin)
        if faults:
            self.unreadable.add(keys)
            return ScalarNode(node.text, node.start)
        return replace(node, text="".join(parts))

    def _report_variable(self, fault: VariableFault, begin: int) -> int:
        """Report a fault at its own line; return the index behind it, where the next is sought."""
        found = self._source.find(fault.written, begin)
        line = self._line_at(begin if found < 0 else found)
        self.problems.append(Problem(fault.message, self._path, line, fault.hint))
        return begin if found < 0 else found + len(fault.written)

    def _scalar(self, node: ScalarNode) -> object:
        kind = self._kind(node)
        if kind in ("", "str"):
            return self._text(node) if kind else None
        text = node.text
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() == "true"
        if kind == "float":
            is_special = text.lower().endswith(("inf", "nan"))
            return float(text.replace(".", "", 1) if is_special else text)
        if len(text) > _MAX_DIGITS:
            self._report(node, "a number with too many digits")
            return None
        return int(text, 0) if text[:2] in ("0o", "0x") else int(text)

    def _kind(self, node: ScalarNode) -> str:
        """Return the type in the core schema; empty, and reported, if the tag does not fit."""
        if not node.tag and node.is_plain:
            return next((kind for kind, form in _PLAIN if form.fullmatch(node.text)), "str")
        if node.tag in ("", "!", CORE + "str"):
            return "str"
        forms = [form for kind, form in _PLAIN if node.tag == CORE + kind]
        if not forms:
            self._report_tag(node, "a text")
        elif not any(form.fullmatch(node.text) for form in forms):
            self._report(node, f"{node.text!r} cannot be read as {_short(node.tag)}")
        else:
            return node.tag.removeprefix(CORE)
        return ""

    def _text(self, node: ScalarNode) -> str:
        text = node.text
        if _SURROGATE.search(text):
            self._report(node, "holds half of a surrogate pair")
            return text.encode("utf-8", "replace").decode()
        if "\0" in text:  # never meant in a path, name or template, and refused by file systems
            self._report(node, "holds a NUL character")
            return text.replace("\0", "")
        return text

    def _check_tag(self, node: SequenceNode | MappingNode, kind: str) -> None:
        if node.tag not in ("", "!", CORE + kind):
            self._report_tag(node, "a list" if kind == "seq" else "a mapping")

    def _report_tag(self, node: ScalarNode | SequenceNode | MappingNode, what: str) -> None:
        known = [CORE + kind for kind in ("str", "int", "float", "bool", "null", "seq", "map")]
        if node.tag in known:
            self._report(node, f"tag {_short(node.tag)} does not fit {what}")
        else:
            hint = "remove it; known are " + ", ".join(_short(tag) for tag in known)
            self._report(node, f"tag {_short(node.tag)} is not supported", hint)

    def _report(self, node: Node, message: str, hint: str = "") -> None:
        self.problems.append(Problem(message, self._path, self._line_at(node.start), hint))


def _target(node: Node) -> ScalarNode | SequenceNode | MappingNode:
    while isinstance(node, AliasNode):
        node = node.target
    return node


def _short(tag: str) -> str:
    """Return a tag as it is written in a file."""
    if tag.startswith(CORE):
        return "!!" + tag.removeprefix(CORE)
    return tag if tag.startswith("!") else f"!<{tag}>"
