"""Reads tags and anchors (YAML 1.2.2, section 6.9) and knows the node of each anchor."""

import re
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import unquote

from thothy_batch.yaml_source.syntax.cursor import Cursor, shorten
from thothy_batch.yaml_source.syntax.errors import UnsupportedYamlError
from thothy_batch.yaml_source.syntax.nodes import (
    AliasNode,
    Node,
    ScalarNode,
)

NodeT = TypeVar("NodeT", bound=Node)

CORE = "tag:yaml.org,2002:"
_NAME = re.compile(r"[^ \t\n,\[\]{}]+")
_VERBATIM = re.compile(r"!<((?:%[0-9A-Fa-f]{2}|[0-9A-Za-z\-#;/?:@&=+$,_.!~*'()\[\]])+)>")
_SHORTHAND = re.compile(
    r"(!(?:[0-9A-Za-z-]*!)?)((?:%[0-9A-Fa-f]{2}|[0-9A-Za-z\-#;/?:@&=+$_.~*'()])*)"
)
_WORD = re.compile(r"[^ \t\n]*")
_BLOCK_END, _FLOW_END = re.compile(r"[ \t\n]"), re.compile(r"[ \t\n,\]}]")


@dataclass(frozen=True, slots=True)
class Properties:
    """Tag and anchor of a node; both may be empty. `start`: index of the first."""

    start: int
    tag: str = ""
    anchor: str = ""

    def __bool__(self) -> bool:
        return bool(self.tag or self.anchor)


class PropertyReader:
    """Reads what stands before a node. `handles`: the prefixes of the `%TAG` directives."""

    def __init__(self, cursor: Cursor, handles: dict[str, str]) -> None:
        self._cursor = cursor
        self._handles = {"!": "!", "!!": CORE, **handles}
        # None: the node of this anchor is still being read.
        self._anchored: dict[str, Node | None] = {}

    def read_one(self, before: Properties, *, in_flow: bool = False) -> Properties:
        """Read the tag or anchor at the position and add it to those before it."""
        cursor, begin = self._cursor, self._cursor.pos
        start = before.start if before else begin
        if cursor.char == "&":
            if before.anchor:
                raise cursor.fault("a value can have one anchor only")
            found = Properties(start, before.tag, self._name())
            self._anchored[found.anchor] = None
        else:
            if before.tag:
                raise cursor.fault("a value can have one tag only")
            found = Properties(start, self._tag(), before.anchor)
        if not cursor.at(_FLOW_END if in_flow else _BLOCK_END):
            word = _WORD.match(cursor.text, begin)
            assert word is not None
            raise cursor.fault(f"{shorten(word[0])} is no tag or anchor", begin)
        return found

    def read_line(self) -> Properties:
        """Read the tag and anchor at the position, and the white space behind them."""
        cursor = self._cursor
        found = Properties(cursor.pos)
        while cursor.char in ("&", "!"):
            found = self.read_one(found)
            while cursor.char in (" ", "\t"):
                cursor.pos += 1
        return found

    def joined(self, first: Properties, second: Properties) -> Properties:
        """Return the properties of one node that stand on two lines."""
        if (first.anchor and second.anchor) or (first.tag and second.tag):
            raise self._cursor.fault("a value can have one tag and one anchor only", second.start)
        start = first.start if first else second.start
        return Properties(start, first.tag or second.tag, first.anchor or second.anchor)

    def close(self, props: Properties, node: NodeT) -> NodeT:
        """Give tag and anchor to a node that is read completely."""
        if not props:
            return node
        if isinstance(node, AliasNode):
            message = "an alias can have no tag or anchor of its own"
            raise self._cursor.fault(message, props.start)
        node.tag, node.start = props.tag, props.start
        if props.anchor:
            self._anchored[props.anchor] = node
        return node

    def empty(self, props: Properties) -> ScalarNode:
        """Return the node of a value that is left out."""
        return self.close(props, ScalarNode("", props.start, is_plain=True))

    def read_alias(self) -> AliasNode:
        start = self._cursor.pos
        name = self._name()
        if name not in self._anchored:
            raise self._cursor.fault(f"undefined alias *{name}: no &{name} stands before it", start)
        target = self._anchored[name]
        if target is None:
            message = f"alias *{name} stands inside the value that it repeats: aliases repeat"
            raise UnsupportedYamlError(f"{message} themselves without end", start)
        return AliasNode(target, start)

    def _name(self) -> str:
        begin = self._cursor.pos
        match = _NAME.match(self._cursor.text, begin + 1)
        if match is None:
            hint = "put a text that begins with it in quotes"
            raise self._cursor.fault(f"a name is missing after '{self._cursor.char}'", hint=hint)
        self._cursor.pos = match.end()
        return match[0]

    def _tag(self) -> str:
        cursor = self._cursor
        if match := _VERBATIM.match(cursor.text, cursor.pos):
            if match[1] == "!":
                raise cursor.fault("the tag !<!> has no name")
            cursor.pos = match.end()
            return unquote(match[1])
        match = _SHORTHAND.match(cursor.text, cursor.pos)
        assert match is not None
        handle, suffix = match[1], match[2]
        if handle not in self._handles:
            hint = f"declare it: %TAG {handle} PREFIX, before the line ---"
            raise cursor.fault(f"the tag handle {handle} is not declared", hint=hint)
        if not suffix and handle != "!":
            raise cursor.fault(f"the tag {handle} has no name")
        cursor.pos = match.end()
        return self._handles[handle] + unquote(suffix) if suffix else "!"
