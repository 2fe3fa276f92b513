"""Values in templates: one text each, wherever they become text, and nothing of the machine."""

import datetime
import uuid
from decimal import Decimal
from typing import Any

import pytest

from thothy_batch.kinds.templates import TemplateProblem, render_template

UTC = datetime.UTC
MADE = datetime.datetime(2026, 1, 5, 23, 30, tzinfo=UTC)


def rendered(source: str, **variables: Any) -> str:
    return render_template(source, variables, what="document")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3.0, "3"),
        (0.1, "0.1"),
        (Decimal("1E-7"), "0.0000001"),
        (Decimal("1.50"), "1.50"),
        (MADE, "2026-01-05T23:30:00+00:00"),
        (datetime.date(2026, 1, 5), "2026-01-05"),
        (True, "true"),
        (None, ""),
        (uuid.UUID(int=5), str(uuid.UUID(int=5))),
        ([1.5, {"a": "ä"}], '[1.5, {"a": "ä"}]'),
    ],
)
@pytest.mark.parametrize(
    "source", ["{{ x }}", "{{ '' ~ x }}", "{{ x | string }}", "{{ [x] | join }}"]
)
def test_a_value_has_one_text_in_every_place(source: str, value: Any, text: str) -> None:
    assert rendered(source, x=value) == text


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ x * 2 }}", "5"),
        ("{{ x > 2 }}", "true"),
        ("{{ '%.2f' % x }}", "2.50"),
        ("{{ 6 / 2 }}", "3"),
        ("{{ x / 2 }}", "1.25"),
        ("{{ [x, 6 / 2] }}", "[2.5, 3]"),
        ("{{ made.year }}", "2026"),
        ("{{ made.strftime('%d %b') }}", "05 Jan"),
        ("{{ made.timestamp() }}", "1767655800"),
        ("{{ {'made': made} | tojson }}", '{"made": "2026-01-05T23:30:00+00:00"}'),
    ],
)
def test_values_keep_their_types(source: str, text: str) -> None:
    assert rendered(source, x=2.5, made=MADE) == text


@pytest.mark.parametrize(
    "source",
    [
        "{{ made.now() }}",
        "{{ made.today() }}",
        "{{ day.today() }}",
        "{{ made.astimezone() }}",
        "{{ made.fromtimestamp(0) }}",
        "{{ plain.timestamp() }}",
        "{{ made.strftime('%s') }}",
        "{{ made.strftime('%%%-d %-10s') }}",
        "{{ '{:%s}'.format(made) }}",
    ],
)
def test_a_time_tells_neither_the_clock_nor_the_zone_of_the_machine(source: str) -> None:
    plain = datetime.datetime(2026, 1, 5)
    with pytest.raises(TemplateProblem, match="unsafe|zone of the machine"):
        rendered(source, made=MADE, day=MADE.date(), plain=plain)


def test_an_infinite_result_is_no_text() -> None:
    with pytest.raises(TemplateProblem, match="infinite"):
        rendered("{{ x * 10 }}", x=1e308)


@pytest.mark.parametrize("value", [True, None, MADE, [1, None], {"a": True}, 2.5, 7, "text"])
def test_a_formatted_value_has_the_text_of_a_printed_one(value: object) -> None:
    printed = rendered("[{{ x ~ '' }}]", x=value)
    for source in (
        "{{ '[%s]' % x if x is not mapping else '[%s]' % (x,) }}",
        "{{ '[%s]' % (x,) }}",
        "{{ '[%(a)s]' % {'a': x} }}",
        "{{ '[%s]' | format(x) }}",
        "{{ '[{}]'.format(x) }}",
        "{{ '[{a}]'.format(a=x) }}",
        "{{ '[{a!s}]'.format_map({'a': x}) }}",
    ):
        assert rendered(source, x=value) == printed


def test_other_forms_of_a_value_are_python_s() -> None:
    source = "{{ '%05.1f|%d|%s%%' % (x, 3, x) }} {{ '{:.2f}|{0.real}|{m:%d}'.format(x, m=made) }}"
    source = source.replace("{:.2f}", "{0:.2f}")
    assert rendered(source, x=2.5, made=MADE) == "002.5|3|2.5% 2.50|2.5|05"
    assert rendered("{{ made.strftime('%%s %d') }}", made=MADE) == "%s 05"
