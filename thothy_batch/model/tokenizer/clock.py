"""Formats the one date and time that a chat template sees, in English whatever the locale.

A prompt shows the moment at which its run began; a request key is made with a fixed one, so that
what was computed yesterday is found today.
"""

import re
from datetime import datetime

FIXED_DAY = datetime(2000, 1, 1)
_FIXED_SECONDS = "946684800"
_MAX_FORM = 1_000  # characters
_DIRECTIVE = re.compile(r"%([-_0^#]*)([0-9]{0,3})[EO]?([A-Za-z%])")
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)
_COMPOUND = {"c": "%a %b %e %H:%M:%S %Y", "x": "%m/%d/%y", "X": "%H:%M:%S", "r": "%I:%M:%S %p"}


def format_moment(moment: datetime, form: str) -> str:
    """Format as `strftime` does under the C locale. Raises ValueError for an overlong form."""
    if len(form) > _MAX_FORM:
        raise ValueError(f"a format of a date has at most {_MAX_FORM:,} characters")

    def directive(match: re.Match[str]) -> str:
        flags, width, letter = match.groups()
        if letter == "s" and moment == FIXED_DAY:
            return _FIXED_SECONDS  # in UTC: a key does not depend on the machine's zone
        if letter in _COMPOUND:
            return format_moment(moment, _COMPOUND[letter])
        name = _name(moment, letter)
        if name is None:
            # Each directive alone: the C library encodes a whole format by the locale.
            return moment.strftime(f"%{flags}{width}{letter}")
        return name.upper() if "^" in flags else name

    return _DIRECTIVE.sub(directive, form)


def _name(moment: datetime, letter: str) -> str | None:
    """Return the word for a directive that the C library takes from the locale."""
    day, month = _DAYS[moment.weekday()], _MONTHS[moment.month - 1]
    morning = moment.hour < 12
    words = {"A": day, "a": day[:3], "B": month, "b": month[:3], "h": month[:3]}
    return (words | {"p": "AM" if morning else "PM", "P": "am" if morning else "pm"}).get(letter)
