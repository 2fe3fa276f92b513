"""Reads the syntax of YAML 1.2: a text becomes a tree of nodes, or an error with its place.

Tags, schema and duplicate keys are not looked at here.
"""

from thothy_batch.yaml_source.syntax.cursor import MAX_DEPTH, MAX_VALUES
from thothy_batch.yaml_source.syntax.document import read_document
from thothy_batch.yaml_source.syntax.errors import UnsupportedYamlError, YamlError
from thothy_batch.yaml_source.syntax.nodes import (
    AliasNode,
    MappingNode,
    Node,
    ScalarNode,
    SequenceNode,
)
from thothy_batch.yaml_source.syntax.properties import CORE

__all__ = [
    "CORE",
    "MAX_DEPTH",
    "MAX_VALUES",
    "AliasNode",
    "MappingNode",
    "Node",
    "ScalarNode",
    "SequenceNode",
    "UnsupportedYamlError",
    "YamlError",
    "read_document",
]
