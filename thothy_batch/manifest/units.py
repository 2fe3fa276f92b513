"""Parses durations, points in time and memory sizes as people write them."""

import math
import re
from datetime import UTC, datetime, timedelta, tzinfo

_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?")
_CLOCK = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2}))?")
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([KMGT]i?B)")
_UNITS = {
    prefix + suffix: base**power
    for power, prefix in enumerate("KMGT", start=1)
    for suffix, base in (("B", 1000), ("iB", 1024))
}


def parse_duration(text: object) -> float:
    """Parse `90s`, `30m`, `5h` or `1h30m` into seconds. Raises ValueError."""
    match = _DURATION.fullmatch(text.strip()) if isinstance(text, str) else None
    if match is None or not any(match.groups()):
        raise ValueError(f"must be a duration such as 90s, 30m or 5h, found {text!r}")
    hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return hours * 3600 + minutes * 60 + seconds


def parse_deadline(text: object, now: datetime, zone: tzinfo | None = None) -> datetime:
    """Parse `06:00` (its next occurrence after `now`) or an ISO date and time.

    `now` is aware. `zone` applies to times without an offset; None: this machine's zone. Returns an
    aware datetime; a date in the past is returned unchanged. Raises ValueError.
    """
    try:
        if not isinstance(text, str):
            raise ValueError("not text")
        text = text.strip()
        clock = _CLOCK.fullmatch(text)
        if clock is None:
            if len(text) <= len("2026-01-31"):
                raise ValueError("a date alone")
            moment = datetime.fromisoformat(text)
            return moment if moment.tzinfo else _in_zone(moment, zone)
        hour, minute, second = (int(part or 0) for part in clock.groups())
        # Wall-clock arithmetic, so that 06:00 stays 06:00 when the clocks change overnight.
        today = now.astimezone(zone).replace(
            tzinfo=None, hour=hour, minute=minute, second=second, microsecond=0
        )
        moment = _in_zone(today, zone)
        if moment <= now:
            moment = _in_zone(today + timedelta(days=1), zone)
    except (ValueError, OverflowError) as error:
        raise ValueError(
            f"must be a clock time such as 06:00 or a date and time such as 2026-01-31T06:00, "
            f"found {text!r}"
        ) from error
    return moment


def parse_memory(value: object) -> int | float | None:
    """Parse `auto` to None, `8GiB` to bytes, 0.9 to a share of free memory. Raises ValueError."""
    if value is None or value == "auto":
        return None
    if isinstance(value, float) and 0 < value <= 1:
        return value
    size = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    num_bytes = float(size[1]) * _UNITS[size[2]] if size is not None else 0
    if 0 < num_bytes < math.inf:
        return int(num_bytes)
    raise ValueError(
        'must be auto, a size with its unit such as "8GiB", or a share of the free memory such as '
        f"0.9, found {value!r}"
    )


def _in_zone(moment: datetime, zone: tzinfo | None) -> datetime:
    # Through UTC and back: a skipped local time becomes the one an hour later.
    local = moment.astimezone() if zone is None else moment.replace(tzinfo=zone)
    return local.astimezone(UTC).astimezone(zone)
