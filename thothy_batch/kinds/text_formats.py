"""Values for `"%s" % x` and `"{}".format(x)`, whose text is ours and not Python's."""

import re
from collections.abc import Callable, Mapping, Sequence
from string import Formatter
from typing import Any

TextOf = Callable[[Any], str]

_PERCENT = re.compile(r"%(?:\(([^)]*)\))?[-+ #0-9.]*(.)", re.DOTALL)
_FIRST = re.compile(r"[^.\[]*")
_DIRECTIVE = re.compile(r"%[-_0^#+]*[0-9]*[EO]?(.)", re.DOTALL)
OF_THE_ZONE = "%s of a time depends on the zone of the machine: use .timestamp() of a time in UTC"


def percent_values(form: str, values: Any, text_of: TextOf) -> Any:
    """Return the values of `form % values`, those of `%s` as texts."""
    fields = [(name, letter) for name, letter in _PERCENT.findall(form) if letter != "%"]
    if isinstance(values, dict) and any(name for name, _ in fields):
        others = {name for name, letter in fields if letter != "s"}
        named = {name for name, _ in fields} - others
        return {key: text_of(v) if key in named else v for key, v in values.items()}
    letters = [letter for _, letter in fields]
    if isinstance(values, tuple):
        if len(values) != len(letters):
            return values  # an error, which Python words
        pairs = zip(values, letters, strict=True)
        return tuple(text_of(v) if letter == "s" else v for v, letter in pairs)
    return text_of(values) if letters == ["s"] else values


def format_values(
    form: str, args: Sequence[Any], kwargs: Mapping[str, Any], text_of: TextOf
) -> tuple[list[Any], dict[str, Any]]:
    """Return the arguments of `form.format(...)`, those of plain fields (`{}`, `{name}`) as texts.

    A field with a form of its own (`{:.2f}`) or a part (`{x.year}`) gets the value. Raises
    ValueError for the form `%s` of a time.
    """
    plain: set[str] = set()
    others: set[str] = set()
    number = 0
    for _, name, spec, conversion in Formatter().parse(form):
        if name is None:
            continue
        if reads_zone(spec):
            raise ValueError(OF_THE_ZONE)
        first = _FIRST.match(name)
        key = first.group() if first else ""
        if not key:
            key, number = str(number), number + 1
        is_plain = not spec and conversion in (None, "s") and "." not in name and "[" not in name
        (plain if is_plain else others).add(key)
    plain -= others
    shown = [text_of(v) if str(i) in plain else v for i, v in enumerate(args)]
    return shown, {key: text_of(v) if key in plain else v for key, v in kwargs.items()}


def reads_zone(form: object) -> bool:
    """True if a format of a time holds `%s`, which reads the time zone of the machine."""
    return isinstance(form, str) and "s" in _DIRECTIVE.findall(form)
