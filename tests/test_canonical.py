"""The text of a value: read back it is the value, and it says no more than that."""

import datetime
import json
import re
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thothy_batch.canonical import canonical_json, canonical_text, duration_text

KOLKATA = datetime.timezone(datetime.timedelta(hours=5, minutes=30))
NUMBERS = st.integers() | st.floats(allow_infinity=False) | st.decimals(allow_infinity=False)
PARTS = st.none() | st.booleans() | NUMBERS | st.text()
VALUES = st.recursive(
    PARTS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
)


@given(st.floats(allow_nan=False))
def test_a_float_reads_back_and_a_whole_one_has_no_fraction(value: float) -> None:
    text = canonical_text(value)
    assert float(text) == value
    assert not text.endswith(".0")
    if value.is_integer() and abs(value) <= 2**53:
        assert text == str(int(value))


@given(st.decimals(allow_nan=False, allow_infinity=False, places=12))
def test_a_decimal_keeps_its_digits_in_plain_notation(value: Decimal) -> None:
    text = canonical_text(value)
    assert re.fullmatch(r"-?\d+\.\d{12}", text)
    assert Decimal(text) == value


@given(st.datetimes(timezones=st.sampled_from([KOLKATA, datetime.UTC])))
def test_a_time_with_a_zone_is_in_utc(moment: datetime.datetime) -> None:
    moment = moment.replace(year=max(2, min(9998, moment.year)), day=min(28, moment.day))
    text = canonical_text(moment)
    assert text.endswith("+00:00")
    assert datetime.datetime.fromisoformat(text) == moment.astimezone(datetime.UTC)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (float("nan"), ""),
        (Decimal("nan"), ""),
        (-0.0, "0"),
        (True, "true"),
        (Decimal("1.5E+3"), "1500"),
        (Decimal("0E-10"), "0.0000000000"),
        (datetime.datetime(2026, 1, 2, 3), "2026-01-02T03:00:00"),
        (datetime.time(3), "03:00:00"),
        (datetime.timedelta(days=1, seconds=2, microseconds=500_000), "P1DT2.5S"),
        ([0.5, 3.0, None, True, "ä", datetime.date(2026, 1, 2)],
         '[0.5, 3, null, true, "ä", "2026-01-02"]'),
        ({"b": Decimal("1.50"), "a": [("k", 1)]}, '{"b": 1.50, "a": [["k", 1]]}'),
    ],
)  # fmt: skip
def test_every_type_has_one_form(value: Any, text: str) -> None:
    assert canonical_text(value) == text


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ((0, 0, 0), "PT0S"),
        ((14, -2, 3_500_000_000), "P14M-2DT3.5S"),
        ((0, 0, -90_000_000_000_001), "P-1DT-3600.000000001S"),
        ((0, 1, 90_000_000_000_000), "P1DT90000S"),
        ((0, 0, -1), "PT-0.000000001S"),
    ],
)
def test_a_duration_has_the_sign_of_each_part(parts: tuple[int, int, int], text: str) -> None:
    assert duration_text(*parts) == text


@given(VALUES)
def test_json_is_valid_and_reads_back_alike(value: Any) -> None:
    text = canonical_json(value)
    assert "\n" not in text
    read = json.loads(text, parse_float=Decimal)
    assert canonical_json(read) == text or "e" in text.lower()
