"""Casts the columns of a SQL result that Arrow's types would alter to text.

Arrow has no integer of 128 bits without a sign (DuckDB's become negative), no time of day with an
offset (it is dropped), and no bit strings, big numbers, geometries or variants (DuckDB hands over
its own bytes).
"""

from typing import Any

_TIME_WITH_ZONE = "TIME WITH TIME ZONE"
_ALTERED = ("UHUGEINT", _TIME_WITH_ZONE, "BIT", "BIGNUM", "GEOMETRY", "VARIANT")
# ISO 8601, with a fraction of six digits where there is one.
_TIME_IN_UTC = (
    "CASE WHEN microsecond({0}) % 1000000 = 0 THEN strftime({1}, '%H:%M:%S+00:00') "
    "ELSE strftime({1}, '%H:%M:%S.%f+00:00') END"
)
_IN_UTC = "DATE '1970-01-01' + ({0} AT TIME ZONE 'UTC')::TIME"


def carried_by_arrow(relation: Any) -> Any:
    """Return a DuckDB relation with the same rows and columns, all of types that Arrow keeps."""
    types = [_carried(kind) for kind in relation.types]
    if all(kind is None for kind in types):
        return relation
    names = map(_quoted, relation.columns)
    columns = zip(names, relation.types, types, strict=True)
    return relation.project(", ".join(_column(*column) for column in columns))


def _column(name: str, kind: Any, carried: str | None) -> str:
    if carried is None:
        return name
    if _TIME_WITH_ZONE in str(kind):
        return f"CAST({_in_utc(name, kind)} AS {carried}) AS {name}"
    return f"CAST({name} AS {carried}) AS {name}"


def _in_utc(value: str, kind: Any, depth: int = 0) -> str:
    """Return SQL of a value whose times of day with an offset, at any depth, are texts in UTC."""
    if str(kind) == _TIME_WITH_ZONE:
        return _TIME_IN_UTC.format(value, _IN_UTC.format(value))
    if _TIME_WITH_ZONE not in str(kind):
        return value
    if kind.id in ("list", "array"):
        return _each(value, dict(kind.children)["child"], depth)
    if kind.id == "map":
        parts = dict(kind.children)
        keys = _each(f"map_keys({value})", parts["key"], depth)
        values = _each(f"map_values({value})", parts["value"], depth)
        made = f"MAP({keys}, {values})"
    elif kind.id == "struct":
        fields = (
            f"{_quoted(name)} := {_in_utc(f'struct_extract({value}, {_text(name)})', part, depth)}"
            for name, part in kind.children
        )
        made = f"struct_pack({', '.join(fields)})"
    elif kind.id == "tuple":
        numbered = enumerate(kind.children, 1)
        texts = (_in_utc(f"struct_extract({value}, {i})", part, depth) for i, (_, part) in numbered)
        made = f"row({', '.join(texts)})"
    else:
        raise ValueError(
            f"a column has the type {kind}: a time of day with an offset inside a {kind.id} "
            "is not read; cast it to text or to TIME"
        )
    return f"CASE WHEN {value} IS NULL THEN NULL ELSE {made} END"


def _each(values: str, kind: Any, depth: int) -> str:
    name = f"each_{depth}"
    return f"list_transform({values}, lambda {name}: {_in_utc(name, kind, depth + 1)})"


def _text(name: str) -> str:
    return "'" + name.replace("'", "''") + "'"


def _carried(kind: Any) -> str | None:
    """Return the type to cast to; None where Arrow keeps the type as it is."""
    if str(kind) in _ALTERED:
        return "VARCHAR"
    if kind.id not in ("list", "array", "struct", "tuple", "map", "union"):
        return None
    # An array's children are its element and its size, a union's first one is its tag.
    children = [(name, part) for name, part in kind.children if (kind.id, name) != ("union", "")]
    parts = [(name, part, _carried(part)) for name, part in children if not isinstance(part, int)]
    if all(carried is None for _, _, carried in parts):
        return None
    inner = [(name, carried or str(part)) for name, part, carried in parts]
    if kind.id == "list":
        return f"{inner[0][1]}[]"
    if kind.id == "array":
        return f"{inner[0][1]}[{dict(children)['size']}]"
    if kind.id == "map":
        return f"MAP({inner[0][1]}, {inner[1][1]})"
    if kind.id == "tuple":
        return f"TUPLE({', '.join(text for _, text in inner)})"
    fields = ", ".join(f"{_quoted(name)} {text}" for name, text in inner)
    return f"{kind.id.upper()}({fields})"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
