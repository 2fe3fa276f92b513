"""Types of DuckDB that Arrow would alter, inside other types: the same text as alone."""

import duckdb
import pytest

from thothy_batch.manifest.cells import read_values
from thothy_batch.manifest.sql_input.types import carried_by_arrow

TIME, TEXT = "'01:30:00.25+02'::TIMETZ", "23:30:00.250000+00:00"


def carried(expression: str) -> object:
    """The value of an expression as an SQL input hands it over."""
    relation = carried_by_arrow(duckdb.connect().sql(f"SELECT {expression} AS v"))
    [value] = read_values(relation.to_arrow_table().column(0))
    return value


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        (TIME, TEXT),
        (f"[{TIME}, null]", [TEXT, None]),
        (f"[[{TIME}], null, []]", [[TEXT], None, []]),
        (f"[{TIME}]::TIMETZ[1]", [TEXT]),
        (f"{{'a \"x': {TIME}, 'b': 1}}", {'a "x': TEXT, "b": 1}),
        (f"{{'a': [{{'b': {TIME}}}, null]}}", {"a": [{"b": TEXT}, None]}),
        (f"MAP {{'k': {TIME}}}", [("k", TEXT)]),
        (f"MAP {{{TIME}: ['101'::BIT]}}", [(TEXT, ["101"])]),
        ("null::TIMETZ[]", None),
        ("null::MAP(TIMETZ, INT)", None),
        ("null::STRUCT(t TIMETZ)", None),
    ],
)
def test_a_time_with_an_offset_is_in_utc_at_any_depth(expression: str, value: object) -> None:
    assert carried(expression) == value


def test_tuples_are_carried_as_structs_are() -> None:
    value = carried(f"row({TIME}, '101'::BIT, 5::UHUGEINT)")
    assert isinstance(value, dict)
    assert list(value.values()) == [TEXT, "101", "5"]


def test_a_time_with_an_offset_in_a_union_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="inside a union is not read; cast it"):
        carried(f"union_value(a := {TIME})")
