"""Reads block nodes, whose structure is their indentation (YAML 1.2.2, section 8.2)."""

import re

from thothy_batch.yaml_source.syntax.block_scalars import read_block_scalar
from thothy_batch.yaml_source.syntax.cursor import Cursor, shorten
from thothy_batch.yaml_source.syntax.errors import YamlError
from thothy_batch.yaml_source.syntax.flow import FlowReader
from thothy_batch.yaml_source.syntax.nodes import MappingNode, Node, ScalarNode, SequenceNode
from thothy_batch.yaml_source.syntax.properties import Properties, PropertyReader
from thothy_batch.yaml_source.syntax.scalars import read_plain_rest

_DASH = re.compile(r"-[ \t\n]")
_QUESTION = re.compile(r"\?[ \t\n]")
_COLON = re.compile(r":[ \t\n]")
_KEY_END = re.compile(r"[ \t]*:(?=[ \t\n])")
_LINE_REST = re.compile(r"[#\n]")


class BlockReader:
    """Reads the nodes of a document from its cursor."""

    def __init__(self, cursor: Cursor, handles: dict[str, str]) -> None:
        self._cursor = cursor
        self._properties = PropertyReader(cursor, handles)
        self._flow = FlowReader(cursor, self._properties)

    def node(
        self,
        indent: int,
        *,
        list_indent: int | None = None,
        is_compact: bool = False,
        is_new_line: bool = False,
    ) -> Node:
        """Read a node whose lines are indented deeper than `indent`; it may be left out.

        `list_indent`: the same for a list. `is_compact`: a list or mapping may begin on this line.
        `is_new_line`: the position is the beginning of a line.
        """
        cursor = self._cursor
        props = Properties(cursor.pos)
        while True:
            begin = cursor.pos
            is_new_line = cursor.skip() or is_new_line
            if cursor.at_end or (is_new_line and not self._is_deeper(indent, list_indent)):
                return self._properties.empty(props)
            if is_new_line:
                may_nest = cursor.indent() == cursor.column()
            else:
                may_nest = is_compact and not props and "\t" not in cursor.text[begin : cursor.pos]
            own = self._properties.read_line()
            if not own or not cursor.at(_LINE_REST):
                return self._content(indent, props, own, may_nest)
            props = self._properties.joined(props, own)
            is_new_line = False

    def _is_deeper(self, indent: int, list_indent: int | None) -> bool:
        """True if the line belongs to a node of that indentation."""
        spaces = self._cursor.indent()
        if spaces > indent:
            return True
        if spaces != self._cursor.column():
            raise self._cursor.tab_fault()
        return list_indent is not None and spaces > list_indent and self._cursor.at(_DASH)

    def _content(self, indent: int, outer: Properties, own: Properties, may_nest: bool) -> Node:
        """Read what follows the properties `outer` of lines above and `own` of this line."""
        cursor = self._cursor
        if cursor.at(_DASH) or cursor.at(_QUESTION):
            if own:
                message = "a tag or anchor of a list or mapping stands on the line above it"
                raise cursor.fault(message, own.start)
            if not may_nest:
                raise self._cannot_nest(own.start)
            return self._sequence(outer) if cursor.char == "-" else self._mapping(outer, own)
        if cursor.char in ("|", ">"):
            start = cursor.pos
            text = ScalarNode(read_block_scalar(cursor, indent), start)
            return self._properties.close(self._properties.joined(outer, own), text)
        node = self._flow_node(indent, own)
        if cursor.at(_KEY_END):
            if not may_nest:
                raise self._cannot_nest(own.start)
            return self._mapping(outer, own, node)
        if isinstance(node, ScalarNode) and node.is_plain:
            node.text = read_plain_rest(cursor, node.text, indent + 1)
        cursor.end_line()
        return self._properties.close(self._properties.joined(outer, own), node)

    def _flow_node(self, indent: int, own: Properties) -> Node:
        """Read quotes, brackets, an alias, or the first line of a plain scalar."""
        if self._cursor.at(_COLON):
            return ScalarNode("", own.start, is_plain=True)
        return self._flow.content(indent + 1, is_flow=False)

    def _cannot_nest(self, begin: int) -> YamlError:
        cursor = self._cursor
        line_start = cursor.text.rfind("\n", 0, begin) + 1
        if "\t" in cursor.text[line_start:begin]:
            cursor.pos = begin
            return cursor.tab_fault()
        if cursor.char == "-":
            return cursor.fault("a list has to begin on a new line", begin)
        hint = "put a text that holds ': ' in quotes; a mapping begins on a new line"
        return cursor.fault("': ' is not allowed here", hint=hint)

    def _sequence(self, props: Properties) -> SequenceNode:
        cursor = self._cursor
        node = SequenceNode(cursor.pos)
        column = cursor.column()
        with cursor.nested():
            while True:
                cursor.count_value()
                cursor.pos += 1
                node.items.append(self.node(column, is_compact=True))
                if not self._has_more(column) or not cursor.at(_DASH):
                    return self._properties.close(props, node)

    def _mapping(self, props: Properties, own: Properties, key: Node | None = None) -> MappingNode:
        """Read a mapping; `key`, with the properties `own`, if its first key is read already."""
        cursor = self._cursor
        node = MappingNode(own.start)
        column = own.start - cursor.text.rfind("\n", 0, own.start) - 1
        with cursor.nested():
            while True:
                cursor.count_value()
                if key is None and cursor.at(_QUESTION):
                    node.pairs.append(self._explicit_pair(column))
                else:
                    if key is None:
                        own = self._properties.read_line()
                        key = self._key(column, own)
                    node.pairs.append(self._pair(column, own, key))
                key = None
                if not self._has_more(column):
                    return self._properties.close(props, node)

    def _key(self, column: int, own: Properties) -> Node:
        cursor = self._cursor
        if cursor.at(_DASH):
            raise cursor.fault("an entry of a list stands among keys")
        if own and cursor.at(_LINE_REST):
            raise cursor.fault("a tag or anchor is not indented deeper than the key", own.start)
        node = self._flow_node(column, own)
        if not cursor.at(_KEY_END):
            found = shorten(cursor.text[own.start : cursor.pos])
            raise cursor.fault(f"': ' is missing after the key {found}", own.start)
        return node

    def _pair(self, column: int, own: Properties, key: Node) -> tuple[Node, Node]:
        """Read the value of a key, which ends at the position."""
        cursor = self._cursor
        if "\n" in cursor.text[own.start : cursor.pos]:
            raise cursor.fault("a key has to stand on one line", own.start)
        key = self._properties.close(own, key)
        match = _KEY_END.match(cursor.text, cursor.pos)
        assert match is not None
        cursor.pos = match.end()
        return key, self.node(column, list_indent=column - 1)

    def _explicit_pair(self, column: int) -> tuple[Node, Node]:
        """Read a pair whose key follows `? `."""
        cursor = self._cursor
        cursor.pos += 1
        key = self.node(column, list_indent=column - 1, is_compact=True)
        if not self._has_more(column) or not cursor.at(_COLON):
            return key, ScalarNode("", cursor.pos, is_plain=True)
        cursor.pos += 1
        return key, self.node(column, list_indent=column - 1, is_compact=True)

    def _has_more(self, column: int) -> bool:
        """Move to the next line that is not empty; return True if it begins at `column`."""
        cursor = self._cursor
        cursor.skip()
        if cursor.at_end:
            return False
        spaces = cursor.indent()
        if spaces != cursor.column():
            raise cursor.tab_fault()
        if spaces > column:
            message = f"an indentation of {spaces} fits no line above"
            raise cursor.fault(message, hint=f"{column} would continue what stands above")
        return spaces == column
