"""The YAML test suite: valid cases are read as they say or refused by name, others refused."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from thothy_batch.errors import ManifestError
from thothy_batch.yaml_source import load_yaml
from thothy_batch.yaml_source.syntax import (
    CORE,
    AliasNode,
    MappingNode,
    Node,
    ScalarNode,
    read_document,
)

CORE_TAGS = {"", "!"} | {
    CORE + kind for kind in ("str", "int", "float", "bool", "null", "seq", "map")
}
MANY, COMPLEX, NO_KEY, TAG = (
    "more than one document",
    "lists and mappings as keys are not supported",
    "a key is missing",
    "is not supported",
)


@dataclass
class Expected:
    """The documents of a case, as its events say, and why it cannot be a manifest."""

    documents: list[Any] = field(default_factory=list)
    reasons: set[str] = field(default_factory=set)
    anchors: dict[str, Any] = field(default_factory=dict)


@pytest.fixture(scope="module")
def cases(shared: Path) -> list[dict[str, Any]]:
    path = shared / "data/yaml-test-suite/cases.parquet"
    if not path.is_file():
        pytest.skip("the YAML test suite is not in the shared data folder")
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    assert len(rows) == 402
    return rows


def expected(events: str) -> Expected:
    found = Expected()
    lines = iter(events.splitlines())
    for line in lines:
        if line.startswith("+DOC"):
            found.documents.append(read_event(next(lines), lines, found))
    if len(found.documents) > 1:
        found.reasons.add(MANY)
    return found


def read_event(event: str, lines: Iterator[str], found: Expected) -> Any:
    """A tuple for a list or mapping, the same as `shape` gives for a node."""
    head, _, rest = event.partition(" ")
    if head == "=ALI":
        return found.anchors[rest.removeprefix("*")]
    rest = rest.removeprefix("[]").removeprefix("{}").lstrip()
    anchor, tag = "", ""
    if rest.startswith("&"):
        anchor, _, rest = rest[1:].partition(" ")
    if rest.startswith("<"):
        tag, _, rest = rest[1:].partition(">")
        rest = rest.removeprefix(" ")
    if tag not in CORE_TAGS:
        found.reasons.add(TAG)
    value: Any
    if head == "=VAL":
        value = (unescaped(rest[1:]), rest[0] == ":", tag)
    else:
        children = []
        while not (line := next(lines)).startswith("-"):
            children.append(read_event(line, lines, found))
        value = (tag, *children)
        if head == "+MAP":
            for key in children[::2]:
                add_reason_of_key(key, found)
            value = (tag, *zip(children[::2], children[1::2], strict=True))
    if anchor:
        found.anchors[anchor] = value
    return value


def add_reason_of_key(key: Any, found: Expected) -> None:
    is_scalar = len(key) == 3 and isinstance(key[1], bool)
    if not is_scalar:
        found.reasons.add(COMPLEX)
    elif key[0] == "" and (key[2] == CORE + "null" or (key[1] and not key[2])):
        found.reasons.add(NO_KEY)


def unescaped(text: str) -> str:
    pairs = {"\\\\": "\\", "\\n": "\n", "\\t": "\t", "\\r": "\r", "\\b": "\b"}
    parts = text.split("\\\\")
    for short, char in pairs.items():
        if short != "\\\\":
            parts = [part.replace(short, char) for part in parts]
    return "\\".join(parts)


def shape(node: Node) -> Any:
    if isinstance(node, AliasNode):
        return shape(node.target)
    if isinstance(node, ScalarNode):
        return (node.text, node.is_plain, node.tag)
    if isinstance(node, MappingNode):
        return (node.tag, *((shape(key), shape(value)) for key, value in node.pairs))
    return (node.tag, *(shape(item) for item in node.items))


def read(case: dict[str, Any], folder: Path) -> tuple[Any, list[str]]:
    """Value and messages of a case; the value counts only where there are no messages."""
    path = folder / "case.yaml"
    path.write_bytes(case["yaml"])
    try:
        located = load_yaml(path)
    except ManifestError as error:
        return None, [problem.message for problem in error.problems]
    return located.value, [problem.message for problem in located.problems]


def outcome(case: dict[str, Any], value: Any, messages: list[str]) -> str:
    if case["is_error"]:
        return "not YAML, refused" if messages else "not YAML, but read"
    reasons = expected(case["events"]).reasons
    if messages:
        named = {reason for reason in reasons if any(reason in each for each in messages)}
        # Further documents are not looked at, nor is what stands inside a key.
        is_right = named == reasons or named & {MANY, COMPLEX}
        return "refused by name" if is_right else "refused wrongly"
    if reasons:
        return f"read in spite of {reasons}"
    wanted = json.loads(case["json"]) if case["json"] else None
    has_value = case["json"] is not None
    return "read" if not has_value or dumped(value) == dumped(wanted) else "read as another value"


def dumped(value: Any) -> str:
    """Text that tells 1, 1.0 and true apart."""
    return json.dumps(value, sort_keys=True)


def test_every_case_of_the_suite_is_read_rightly_or_refused_by_name(
    cases: list[dict[str, Any]], tmp_path: Path
) -> None:
    outcomes = {case["id"]: outcome(case, *read(case, tmp_path)) for case in cases}
    table = Counter(outcomes.values())
    wrong = {
        name: each
        for name, each in outcomes.items()
        if each not in ("read", "refused by name", "not YAML, refused")
    }
    assert not wrong
    assert table == {"read": 250, "refused by name": 58, "not YAML, refused": 94}


def test_every_valid_document_of_the_suite_has_the_nodes_of_its_events(
    cases: list[dict[str, Any]],
) -> None:
    """Looks at tags, quotes and texts, also of those whose value is refused later."""
    num_read = 0
    for case in cases:
        documents = expected(case["events"]).documents if not case["is_error"] else []
        if len(documents) == 1:
            root = read_document(case["yaml"].decode().removeprefix("\ufeff"))
            assert root is not None, case["id"]
            assert shape(root) == documents[0], case["id"]
            num_read += 1
    assert num_read == 284
