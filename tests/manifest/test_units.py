"""Durations, deadlines and sizes."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thothy_batch.manifest.units import parse_deadline, parse_duration, parse_memory

BERLIN = ZoneInfo("Europe/Berlin")
EVENING = datetime(2026, 11, 23, 22, 30, tzinfo=BERLIN)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("30m", 1800), ("5h", 18000), ("1h30m", 5400), ("0.5h", 1800), ("0s", 0)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "5", "h", "5 hours", "-5s", "30m5h", "5d", 5, None, "s5", "1e3s"]
)
def test_what_is_no_duration_is_refused_with_examples(text: object) -> None:
    with pytest.raises(ValueError, match="90s, 30m or 5h"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("06:00", datetime(2026, 11, 24, 6, 0, tzinfo=BERLIN)),
        ("6:00", datetime(2026, 11, 24, 6, 0, tzinfo=BERLIN)),
        ("23:15:30", datetime(2026, 11, 23, 23, 15, 30, tzinfo=BERLIN)),
        ("22:30", datetime(2026, 11, 24, 22, 30, tzinfo=BERLIN)),  # this very minute: tomorrow's
        ("2026-12-01T06:00", datetime(2026, 12, 1, 6, 0, tzinfo=BERLIN)),
        ("2026-12-01 06:00:00+00:00", datetime(2026, 12, 1, 6, 0, tzinfo=UTC)),
        ("2026-12-01T06:00Z", datetime(2026, 12, 1, 6, 0, tzinfo=UTC)),
        ("2020-01-01T00:00Z", datetime(2020, 1, 1, tzinfo=UTC)),
    ],
)
def test_deadlines_are_the_next_occurrence_or_the_date(text: str, moment: datetime) -> None:
    found = parse_deadline(text, EVENING, BERLIN)
    assert found == moment
    assert found.tzinfo is not None


def test_a_clock_time_keeps_to_the_wall_clock_when_clocks_change() -> None:
    before = datetime(2026, 10, 24, 22, 0, tzinfo=BERLIN)  # the night of the change to winter time
    found = parse_deadline("06:00", before, BERLIN)
    assert (found.hour, found.astimezone(UTC) - before.astimezone(UTC)) == (6, timedelta(hours=9))


def test_a_clock_time_that_is_skipped_means_the_hour_after() -> None:
    before = datetime(2026, 3, 28, 22, 0, tzinfo=BERLIN)
    assert parse_deadline("02:30", before, BERLIN).isoformat() == "2026-03-29T03:30:00+02:00"


@settings(max_examples=60)
@given(st.datetimes(datetime(2000, 1, 1), datetime(2090, 1, 1)), st.times())
def test_a_clock_time_lies_within_the_next_day(now: datetime, clock: object) -> None:
    aware = now.replace(tzinfo=UTC)
    found = parse_deadline(f"{clock:%H:%M}", aware)
    assert timedelta(0) < found - aware <= timedelta(hours=25)


@pytest.mark.parametrize(
    "text", ["", "24:00", "6", "06:60", "tomorrow", "2026-12-01", "2026-13-01T06:00", 600, None]
)
def test_what_is_no_time_is_refused_with_examples(text: object) -> None:
    with pytest.raises(ValueError, match="06:00"):
        parse_deadline(text, EVENING)


@pytest.mark.parametrize(
    ("value", "memory"),
    [
        ("auto", None),
        (None, None),
        ("8GiB", 8 * 1024**3),
        ("1.5 GiB", 1536 * 1024**2),
        ("512MB", 512_000_000),
        ("64KiB", 65536),
        (0.9, 0.9),
        (1.0, 1.0),
    ],
)
def test_memory(value: object, memory: float | None) -> None:
    found = parse_memory(value)
    assert found == memory
    assert type(found) is type(memory)


ENDLESS = "9" * 400 + "GiB"


@pytest.mark.parametrize(
    "value", [8, 0.0, 1.5, -0.5, "8", "8G", "lots", "0GiB", True, [], "8gib", ENDLESS]
)
def test_what_is_no_memory_is_refused_with_examples(value: object) -> None:
    with pytest.raises(ValueError, match="8GiB"):
        parse_memory(value)
