"""Nodes of a YAML document: what the text says, before tags and schema give it a type.

`start` is the index of a node's first character, its tag and anchor included. `tag` is empty where
none is given, `!` where the text asks for a string, list or mapping, else the full name.
"""

from dataclasses import dataclass, field


@dataclass(slots=True)
class ScalarNode:
    """A text. `is_plain`: written without quotes, so that the schema may read it as a number."""

    text: str
    start: int
    is_plain: bool = False
    tag: str = ""


@dataclass(slots=True)
class SequenceNode:
    """A list."""

    start: int
    items: list["Node"] = field(default_factory=list)
    tag: str = ""


@dataclass(slots=True)
class MappingNode:
    """Pairs of key and value, in the order of the text; equal keys are not looked for."""

    start: int
    pairs: list[tuple["Node", "Node"]] = field(default_factory=list)
    tag: str = ""


@dataclass(slots=True)
class AliasNode:
    """`*name`: the node to which `&name` was given."""

    target: "Node"
    start: int


Node = ScalarNode | SequenceNode | MappingNode | AliasNode
