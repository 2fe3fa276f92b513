"""Reads the syntax tree of a SELECT as DuckDB parses it, and completes its ORDER BY."""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

import duckdb

Tree = dict[str, Any]

_READER = re.compile(r"(read_(parquet|csv|ndjson|json|text|blob)|parquet_scan)(_auto|_objects)*")
_FILE_NAME = re.compile(r"[^/]*[.*?\[][^/]*$")
_CLOCK = ("current_date", "current_time", "current_timestamp", "localtime", "localtimestamp")
# Functions with a form that reads the clock, called with so many arguments or fewer.
_CLOCK_FORMS = {"age": 1}
_ENDS_ORDER = (b"limit", b"offset", b"fetch", b")")


def parse_select(connection: duckdb.DuckDBPyConnection, sql: str) -> Tree | None:
    """Return the tree of a SELECT; None where DuckDB gives none of this statement."""
    try:
        [(text,)] = connection.execute(
            "SELECT json_serialize_sql(?, skip_null := true, skip_empty := true)", [sql]
        ).fetchall()
    except duckdb.Error:
        return None
    document = json.loads(text)
    return None if document["error"] else document["statements"][0]["node"]


def files_named(tree: Tree) -> list[str]:
    """Return the names and globs of the files that are read, as they are written."""
    found: list[str] = []
    for node in _nodes(tree):
        name = node.get("table_name")
        if node.get("type") == "BASE_TABLE" and isinstance(name, str):
            found += [name] if _FILE_NAME.search(name) else []
        elif node.get("type") == "FUNCTION" and _READER.fullmatch(str(node.get("function_name"))):
            found += _texts(node)
    return list(dict.fromkeys(found))


def names_in(tree: Tree) -> set[str] | None:
    """Return all that may be the name of a column, in lower case; None if a star means all."""
    names: set[str] = set()
    for node in _nodes(tree):
        if node.get("class") == "STAR":
            return None
        for value in node.values():
            texts = value if isinstance(value, list) else [value]
            names |= {text.lower() for text in texts if isinstance(text, str)}
    return names


def changing_parts(connection: duckdb.DuckDBPyConnection, tree: Tree) -> list[str]:
    """Return what gives another result each time: the clock, random values, samples."""
    names, found = set(), []
    for node in _nodes(tree):
        column = node.get("column_names", [])
        if node.get("type") == "FUNCTION":
            name = str(node.get("function_name")).lower()
            names.add(name)
            given = node.get("arguments") or node.get("children") or []
            if len(given) <= _CLOCK_FORMS.get(name, -1):
                found.append(f"{name}()")
        elif len(column) == 1 and str(column[0]).lower() in _CLOCK:
            found.append(column[0])
        if (sample := node.get("sample")) and not sample.get("repeatable"):
            found.append("a sample without REPEATABLE")
    unstable = connection.execute(
        "SELECT function_name FROM duckdb_functions()"
        " WHERE function_type IN ('scalar', 'macro') AND list_contains(?, function_name)"
        " AND function_name <> 'error' GROUP BY ALL"
        # A function that also takes times with a zone has a form that depends on the zone, which
        # is fixed here.
        " HAVING bool_and(stability <> 'CONSISTENT')",
        [sorted(names)],
    ).fetchall()
    return sorted({*found, *(f"{name}()" for (name,) in unstable)})


def in_total_order(
    connection: duckdb.DuckDBPyConnection, sql: str, positions: Sequence[int]
) -> str:
    """Return the SELECT with these columns of its result (from 1) behind its own ORDER BY.

    A LIMIT then takes the first rows of that order. The text of the SELECT stays as it is: the
    place of the addition is right where the tree shows that nothing else has changed.
    """
    tree = parse_select(connection, sql)
    if tree is None or not positions:
        return sql
    own = _own_order(tree)
    if own and _is_all(own["orders"]):
        return sql
    text = ", ".join(f"{position} ASC NULLS LAST" for position in positions)
    addition = f", {text} " if own else f" ORDER BY {text} "
    encoded = sql.encode()
    for place in _places(encoded):
        ordered = (encoded[:place] + addition.encode() + encoded[place:]).decode()
        found = parse_select(connection, ordered)
        if found is not None and _only_ordered(tree, found, len(positions)):
            return ordered
    return sql if own else f"SELECT * FROM (\n{sql}\n) ORDER BY {text}"


def _nodes(tree: object) -> Iterator[Tree]:
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            yield node
            waiting += reversed(node.values())
        elif isinstance(node, list):
            waiting += reversed(node)


def _texts(function: Tree) -> list[str]:
    """Return the texts among a function's unnamed arguments, those of a list of texts too."""
    found = []
    for argument in function.get("arguments") or function.get("children") or []:
        node = argument.get("expression", argument)
        if node.get("alias"):  # the name of an argument
            continue
        if node.get("class") == "CONSTANT":
            value = node.get("literal") or node.get("value") or {}
            text = value.get("text", value.get("value"))
            is_text = value.get("kind") == "STRING" or value.get("type") == {"id": "VARCHAR"}
            found += [text] if is_text and isinstance(text, str) else []
        elif node.get("function_name") == "list_value":
            found += _texts(node)
    return found


def _places(sql: bytes) -> Iterator[int]:
    """Yield where the ORDER BY of a SELECT may end: at its end, or before a LIMIT or bracket."""
    yield len(sql)
    for offset, _ in reversed(duckdb.tokenize(sql.decode())):
        if sql[offset : offset + 6].lower().startswith(_ENDS_ORDER):
            yield offset


def _outermost(tree: Tree) -> Tree:
    """Return the node with the modifiers of the result; older releases nest it in its CTEs."""
    while tree["type"] == "CTE_NODE":
        tree = tree["child"]
    return tree


def _own_order(tree: Tree) -> Tree | None:
    modifiers = _outermost(tree).get("modifiers", [])
    return next((m for m in reversed(modifiers) if m["type"] == "ORDER_MODIFIER"), None)


def _is_all(orders: Sequence[Tree]) -> bool:
    """True for ORDER BY ALL, in any direction."""
    first = orders[0]["expression"]
    return len(orders) == 1 and first.get("class") == "STAR" and "expr" not in first


def _only_ordered(before: Tree, after: Tree, num: int) -> bool:
    """True if the second tree is the first one, ordered by `num` more columns at last."""
    before, after = _without_places(before), _without_places(after)
    old = _outermost(before).pop("modifiers", [])
    new = _outermost(after).pop("modifiers", [])
    index = max((i for i, m in enumerate(new) if m["type"] == "ORDER_MODIFIER"), default=None)
    if before != after or index is None:
        return False
    own = new[index]["orders"][:-num]
    if own:
        new[index]["orders"] = own
        return bool(old == new)
    is_limited = any(m["type"].startswith("LIMIT") for m in new[:index])
    return not is_limited and bool(old == new[:index] + new[index + 1 :])


def _without_places(node: Any) -> Any:
    if isinstance(node, dict):
        return {k: _without_places(v) for k, v in node.items() if "query_location" not in k}
    return [_without_places(each) for each in node] if isinstance(node, list) else node
