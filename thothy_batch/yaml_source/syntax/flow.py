"""Reads flow nodes: lists in `[]`, mappings in `{}`, scalars (YAML 1.2.2, section 7)."""

import re

from thothy_batch.yaml_source.syntax.cursor import Cursor
from thothy_batch.yaml_source.syntax.nodes import MappingNode, Node, ScalarNode, SequenceNode
from thothy_batch.yaml_source.syntax.properties import Properties, PropertyReader
from thothy_batch.yaml_source.syntax.scalars import read_plain_line, read_plain_rest, read_quoted

_QUESTION = re.compile(r"\?[ \t\n]")
_COLON = re.compile(r":[ \t\n,\[\]{}]")
_ANY_COLON = re.compile(r":")
_WHITE = re.compile(r"[ \t]*")
_ONE_LINE = "a key in [] has to stand on one line with its ':'"


class FlowReader:
    """Reads what stands in brackets. `indent`: the least spaces of each further line."""

    def __init__(self, cursor: Cursor, properties: PropertyReader) -> None:
        self._cursor = cursor
        self._properties = properties
        # A colon may follow quotes and brackets without a space behind it, as in JSON.
        self._colon = _COLON

    def content(self, indent: int, *, is_flow: bool) -> Node:
        """Read quotes, brackets, an alias or the first line of a plain scalar.

        `is_flow`: it stands in brackets, which a plain scalar cannot hold.
        """
        cursor, start = self._cursor, self._cursor.pos
        char = cursor.char
        if char == "*":
            return self._properties.read_alias()
        if char in ("[", "{"):
            with cursor.nested():
                node = self._sequence(indent) if char == "[" else self._mapping(indent)
            self._colon = _ANY_COLON
            return node
        if char in ("'", '"'):
            self._colon = _ANY_COLON
            return ScalarNode(read_quoted(cursor, indent), start)
        return ScalarNode(read_plain_line(cursor, in_flow=is_flow), start, is_plain=True)

    def _sequence(self, indent: int) -> SequenceNode:
        node = SequenceNode(self._cursor.pos)
        while self._has_more(node.start, "]", indent):
            self._cursor.count_value()
            node.items.append(self._item(indent))
            self._end_item(node.start, "]", indent)
        return node

    def _mapping(self, indent: int) -> MappingNode:
        node = MappingNode(self._cursor.pos)
        while self._has_more(node.start, "}", indent):
            self._cursor.count_value()
            node.pairs.append(self._pair(indent, node.start))
            self._end_item(node.start, "}", indent)
        return node

    def _has_more(self, opened: int, closing: str, indent: int) -> bool:
        """Move behind `[`, `{` or `,`; return False, behind the bracket, if it closes here."""
        cursor = self._cursor
        if cursor.pos == opened or cursor.char == ",":
            cursor.pos += 1
            self._skip(indent, opened)
            if cursor.char == ",":
                raise cursor.fault("a value is missing before ','")
        if cursor.char != closing:
            return True
        cursor.pos += 1
        return False

    def _end_item(self, opened: int, closing: str, indent: int) -> None:
        cursor = self._cursor
        self._skip(indent, opened)
        if cursor.char in (",", closing):
            return
        hint = f"the bracket opens on line {self._line(opened)}"
        if cursor.char != ":":
            raise cursor.fault(f"',' or {closing!r} is expected here", hint=hint)
        if closing == "]":
            raise cursor.fault(_ONE_LINE, hint=hint)
        hint = "a ',' before the key is missing, or quotes around a text that holds ': '"
        raise cursor.fault("': ' is not allowed here", hint=hint)

    def _item(self, indent: int) -> Node:
        """Read an entry of a list; a pair is a mapping of its own."""
        cursor, start = self._cursor, self._cursor.pos
        if cursor.at(_QUESTION):
            return MappingNode(start, [self._pair(indent, start)])
        key = self._node(indent)
        end = cursor.pos
        white = _WHITE.match(cursor.text, end)
        assert white is not None
        if not self._colon.match(cursor.text, white.end()):
            return key
        if "\n" in cursor.text[start:end]:
            raise cursor.fault(_ONE_LINE, start)
        cursor.pos = white.end() + 1
        return MappingNode(start, [(key, self._value(indent, start))])

    def _pair(self, indent: int, opened: int) -> tuple[Node, Node]:
        cursor = self._cursor
        if cursor.at(_QUESTION):
            cursor.pos += 1
            self._skip(indent, opened)
        key = self._node(indent)
        self._skip(indent, opened)
        if not cursor.at(self._colon):
            return key, ScalarNode("", cursor.pos, is_plain=True)
        cursor.pos += 1
        return key, self._value(indent, opened)

    def _value(self, indent: int, opened: int) -> Node:
        self._skip(indent, opened)
        return self._node(indent)

    def _node(self, indent: int) -> Node:
        """Read a node with its tag and anchor; it may be left out before `,`, `:` and brackets."""
        cursor = self._cursor
        props = Properties(cursor.pos)
        while cursor.char in ("&", "!"):
            props = self._properties.read_one(props, in_flow=True)
            self._skip(indent, props.start)
        self._colon = _COLON
        if cursor.char in ",]}" or cursor.at(_COLON):
            return self._properties.empty(props)
        node = self.content(indent, is_flow=True)
        if isinstance(node, ScalarNode) and node.is_plain:
            node.text = read_plain_rest(cursor, node.text, indent, in_flow=True)
        return self._properties.close(props, node)

    def _skip(self, indent: int, opened: int) -> None:
        """Pass white space; a further line has to be indented, but for a closing bracket alone."""
        cursor = self._cursor
        is_new_line = cursor.skip()
        if cursor.at_end:
            name = (
                "'['"
                if cursor.text[opened] == "["
                else "'{'"
                if cursor.text[opened] == "{"
                else "value"
            )
            raise cursor.fault(f"the {name} that opens here is not closed", opened)
        if not is_new_line:
            return
        spaces = cursor.indent()
        if spaces >= indent or (cursor.char in "]}" and spaces == indent - 1):
            return
        if spaces != cursor.column():
            raise cursor.tab_fault()
        hint = f"indent it by {indent} or more, or close the bracket of line {self._line(opened)}"
        raise cursor.fault("a line inside brackets is not indented enough", hint=hint)

    def _line(self, index: int) -> int:
        return self._cursor.text.count("\n", 0, index) + 1
