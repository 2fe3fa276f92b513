"""Dates in a template: those of the C locale, whatever the locale of the process is."""

import locale
import time
from collections.abc import Iterator
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thothy_batch.model.tokenizer.clock import FIXED_DAY, format_moment

DIRECTIVES = "aAbBhcxXrpPdeHIjmMSyYuwUVWGgCDFTRnt%"
MOMENTS = st.datetimes(min_value=datetime(1900, 1, 1), max_value=datetime(2100, 1, 1))


@given(MOMENTS, st.lists(st.sampled_from([*(f"%{d}" for d in DIRECTIVES), " ", "年", "%-d"])))
def test_a_date_is_formatted_as_python_formats_it(moment: datetime, parts: list[str]) -> None:
    assert format_moment(moment, "".join(parts)) == "".join(
        part if part == "年" else moment.strftime(part) for part in parts
    )


@pytest.fixture
def foreign_locale() -> Iterator[None]:
    """Some locale whose names of months are not English."""
    for name in ("de_DE.UTF-8", "fr_FR.UTF-8", "pl_PL.UTF-8", "es_ES.UTF-8", "ja_JP.UTF-8"):
        try:
            locale.setlocale(locale.LC_TIME, name)
        except locale.Error:
            continue
        yield
        locale.setlocale(locale.LC_TIME, "C")
        return
    pytest.skip("this machine has no locale but English ones")


def test_names_are_english_in_another_locale(foreign_locale: None) -> None:
    moment = datetime(2026, 3, 4, 15, 30)
    assert moment.strftime("%A %B") != "Wednesday March"
    assert format_moment(moment, "%A %a %d %B %b %p %c") == (
        "Wednesday Wed 04 March Mar PM Wed Mar  4 15:30:00 2026"
    )


def test_no_name_is_asked_of_the_c_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library names days and months by the locale: none reaches it."""
    asked = []

    class Watched(datetime):
        def strftime(self, form: str) -> str:
            asked.append(form)
            return super().strftime(form)

    moment = Watched(2026, 12, 1, 6, 5, 4)
    assert format_moment(moment, "%A, %d. %^B %p %x %r %c") == (
        "Tuesday, 01. DECEMBER AM 12/01/26 06:05:04 AM Tue Dec  1 06:05:04 2026"
    )
    assert set(asked) <= {"%d", "%e", "%m", "%y", "%Y", "%H", "%I", "%M", "%S"}


def test_a_format_without_end_is_refused() -> None:
    began = time.thread_time()
    with pytest.raises(ValueError, match="at most 1,000 characters"):
        format_moment(datetime(2026, 1, 1), "%c" * 2_000_000)
    assert len(format_moment(datetime(2026, 1, 1), "%999c%999d")) < 2_000
    assert time.thread_time() - began < 5  # without bounds it fills memory


def test_seconds_of_the_fixed_day_do_not_depend_on_the_zone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Request keys are made with that day."""
    try:
        for zone in ("Asia/Tokyo", "America/New_York", "UTC"):
            monkeypatch.setenv("TZ", zone)
            time.tzset()
            assert format_moment(FIXED_DAY, "%s") == "946684800"
            other = datetime(2026, 1, 5)
            assert format_moment(other, "at %s") == other.strftime("at %s")
    finally:
        monkeypatch.undo()
        time.tzset()
