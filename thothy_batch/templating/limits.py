"""Limits on the result of a single template operation, checked before it starts."""

import re
import string
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any

from jinja2.exceptions import SecurityError
from jinja2.filters import make_attrgetter

MAX_RENDERED_CHARS = 4_000_000
# Upper estimates must not refuse results that stay below the limit, so they get this room.
_MAX_GUESSED_CHARS = 16 * MAX_RENDERED_CHARS
_MAX_BITS = 20_000  # of a product; Python prints no number longer than 14,285 bits
_MAX_DIGITS = 4_300  # Python's own limit for decimal strings
_MAX_WIDTH = 10_000  # of a field in a format
_MAX_INDENT = 16
_MAX_PARTS = 100_000  # of `batch` and `slice`
_MAX_WORD = 20_000  # characters without white space; these filters take quadratic time in it
_MAX_TAG_WORK = 20_000_000_000  # characters times tags; striptags copies the text for each tag
_LONG_KEY = 64
_ELEMENT_CHARS = 8  # charged per repeated element, beside its own characters

# Methods whose results are not bounded here.
UNBOUNDED_METHODS = frozenset({"expandtabs", "maketrans", "translate", "to_bytes", "from_bytes"})
_PERCENT = re.compile(r"%(?:\([^)]*\))?([-+ #0-9.*]*)")

Filter = Callable[..., Any]


def text_of(value: Any) -> str:
    """Return the value as it is printed; strings, safe ones included, stay as they are."""
    return value if isinstance(value, str) else str(value)


def check_size(num_chars: int, limit: int = MAX_RENDERED_CHARS) -> None:
    """Raise SecurityError if a text or a list is too long."""
    if num_chars > limit:
        raise SecurityError(f"the text grows beyond {MAX_RENDERED_CHARS:,} characters")


def count_content(value: Any) -> tuple[int, int]:
    """Count the elements of a list or mapping and the characters of their strings.

    A repeated element takes no memory until it is printed, so repetitions are limited to the
    length of a text. Raises SecurityError beyond it.
    """
    seen: set[int] = set()
    left: list[Any] = [value]
    num = chars = again = 0
    while left:
        part = left.pop()
        num += 1
        size = len(part) if isinstance(part, str | bytes) else 0
        if id(part) in seen:
            again += _ELEMENT_CHARS + size
            check_size(again)
        else:
            seen.add(id(part))
            chars += size
        if isinstance(part, dict):
            left.extend(part.values())
            left.extend(k for k in part if not isinstance(k, str) or len(k) > _LONG_KEY)
        elif isinstance(part, list | tuple | set | frozenset):
            left.extend(part)
    return num, chars


def check_operands(operator: str, left: Any, right: Any) -> None:
    """Raise SecurityError if the result of the operator would be too large."""
    if operator == "**":
        raise SecurityError("powers are not allowed in templates")
    if operator == "%" and isinstance(left, str | bytes):
        check_percent(left, right)
    elif operator == "*":
        _check_product(left, right)


def _check_product(left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int):
        if left.bit_length() + right.bit_length() > _MAX_BITS:
            raise SecurityError("the number grows too large")
        return
    for value, times in ((left, right), (right, left)):
        if isinstance(times, int) and hasattr(value, "__len__"):
            check_size(len(value) * times)


def check_percent(text: str | bytes, values: Any) -> None:
    """Check `"%5d" % values`: field widths and the length of the result."""
    form = text.decode("latin-1") if isinstance(text, bytes) else text
    fields = _PERCENT.findall(form)
    for spec in fields:
        _check_width(spec)
    _check_filled(len(form), len(fields), _parts_of(values))


def check_format(text: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Check `"{:>5}".format(...)`: field widths and the length of the result."""
    num = 0
    for _, name, spec, _ in string.Formatter().parse(text):
        num += name is not None
        if spec and "{" in spec:
            raise SecurityError("a format may not take its width from a value")
        _check_width(spec or "")
    _check_filled(len(text), num, [*args, *kwargs.values()])


def _check_width(spec: str) -> None:
    if "*" in spec and not spec.strip("*+- #0123456789."):
        raise SecurityError("a format may not take its width from a value")
    if any(len(digits) > 5 or int(digits) > _MAX_WIDTH for digits in re.findall("[0-9]+", spec)):
        raise SecurityError(f"a format has a width of more than {_MAX_WIDTH:,}")


def _check_filled(num_chars: int, num_fields: int, values: Sequence[Any]) -> None:
    longest = max((_num_chars(value) for value in values), default=0)
    check_size(num_chars + num_fields * max(longest, 1), _MAX_GUESSED_CHARS)


def _num_chars(value: Any) -> int:
    """Return an upper estimate of the printed length of a value."""
    if isinstance(value, str | bytes):
        return 4 * len(value) if isinstance(value, bytes) else len(value)
    if isinstance(value, list | tuple | dict):
        num, chars = count_content(value)
        return 32 * num + 4 * chars
    return 400


def _parts_of(values: Any) -> list[Any]:
    if isinstance(values, dict):
        return [values, *values.values()]
    return [values, *values] if isinstance(values, tuple) else [values]


def checked_arguments(
    owner: str | bytes, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[Any, ...]:
    """Return the arguments of a string method. Raises SecurityError if the result were too long."""
    if name in ("center", "ljust", "rjust", "zfill") and args and isinstance(args[0], int):
        check_size(args[0])
    elif name == "replace" and len(args) >= 2:
        _check_replace(owner, args[0], args[1])
    elif name == "join" and len(args) == 1:
        parts = list(args[0])
        _check_join(owner, parts)
        return (parts,)
    elif name in ("format", "format_map") and isinstance(owner, str):
        check_format(owner, args, kwargs)
    return args


def _check_replace(text: Any, old: Any, new: Any) -> None:
    growth = max(0, len(new) - len(old))
    check_size(len(text) + (text.count(old) * growth if growth else 0))


def _check_join(separator: str | bytes, parts: Sequence[Any]) -> None:
    total = sum(len(part) for part in parts if isinstance(part, str | bytes))
    check_size(total + len(separator) * max(0, len(parts) - 1))


def bounded_filter(name: str, function: Filter, made: Callable[[Any], Any]) -> Filter:
    """Wrap a filter: check its arguments first, pass its result through `made`."""
    if name in _UNCHANGED:
        return function
    check = _CHECKS.get(name)
    # Some filters take the environment or the context first.
    skipped = 1 if hasattr(function, "jinja_pass_arg") else 0

    @wraps(function)
    def bounded(*args: Any, **options: Any) -> Any:
        if check is not None:
            check(*args[skipped:], **options)
        return made(function(*args, **options))

    @wraps(function)
    def joined(context: Any, *args: Any, **options: Any) -> Any:
        parts, separator = _joined_parts(context.environment, *args, **options)
        return made(function(context, parts, separator))

    return joined if name == "join" else bounded


def _joined_parts(
    environment: Any, value: Any, d: Any = "", attribute: Any = None
) -> tuple[list[str], str]:
    """Return the strings to join and the separator. Parameters are named as in jinja2."""
    if attribute is not None:
        value = map(make_attrgetter(environment, attribute), value)
    parts, separator = [environment.text_of(part) for part in value], text_of(d)
    _check_join(separator, parts)
    return parts, separator


def _check_center(value: Any, width: int = 80) -> None:
    check_size(width)


def _check_indent(s: Any, width: Any = 4, *_: Any, **__: Any) -> None:
    text = text_of(s)
    step = width if isinstance(width, int) else len(width)
    check_size(len(text) + (len(text.splitlines()) + 1) * step)


def _check_wordwrap(
    s: Any, width: int = 79, _: bool = True, wrapstring: Any = None, *__: Any, **___: Any
) -> None:
    _check_words(s)
    check_size(len(s) * len(wrapstring or ""), _MAX_GUESSED_CHARS)


def _check_words(value: Any, *_: Any, **__: Any) -> None:
    longest = max(map(len, text_of(value).split()), default=0)
    if longest > _MAX_WORD:
        raise SecurityError(f"a word has {longest:,} characters; this filter takes {_MAX_WORD:,}")


def _check_tags(value: Any) -> None:
    text = text_of(value)
    if text.count("<") * len(text) > _MAX_TAG_WORK:
        raise SecurityError("the text has too many tags to be stripped of them")


def _check_replace_filter(s: Any, old: Any, new: Any, count: Any = None) -> None:
    _check_replace(text_of(s), text_of(old), text_of(new))


def _check_format_filter(value: Any, *args: Any, **kwargs: Any) -> None:
    check_percent(text_of(value), kwargs or args)


def _check_json(value: Any, indent: Any = None, separators: Any = None, **_: Any) -> None:
    step = len(indent) if isinstance(indent, str) else indent or 0
    if step > _MAX_INDENT:
        raise SecurityError(f"JSON is indented by at most {_MAX_INDENT}")
    if max(map(len, separators or ()), default=0) > _MAX_INDENT:
        raise SecurityError(f"a separator of JSON has at most {_MAX_INDENT} characters")


def _check_batch(value: Any, linecount: int, fill_with: Any = None) -> None:
    if linecount > _MAX_PARTS:
        raise SecurityError(f"more than {_MAX_PARTS:,} parts")
    check_size(linecount * _num_chars(fill_with or ""))


def _check_slice(value: Any, slices: int, fill_with: Any = None) -> None:
    _check_batch(value, slices, fill_with)


def _check_urlize(
    value: Any, trim: Any = None, nofollow: bool = False, target: Any = None, rel: Any = None,
    *_: Any, **__: Any,
) -> None:  # fmt: skip
    _check_words(value)
    text = text_of(value)
    added = len(text_of(target or "")) + len(text_of(rel or ""))
    check_size(len(text) + (len(text.split()) + 1) * added, _MAX_GUESSED_CHARS)


def _check_round(value: Any, precision: int = 0, *_: Any, **__: Any) -> None:
    if abs(precision) > _MAX_INDENT:
        raise SecurityError(f"numbers are rounded to at most {_MAX_INDENT} places")


def _check_int(value: Any, *_: Any, **__: Any) -> None:
    if isinstance(value, str) and len(value) > _MAX_DIGITS:
        raise SecurityError(f"a number has at most {_MAX_DIGITS:,} digits")


def _check_sum(iterable: Any, attribute: Any = None, start: Any = 0) -> None:
    if not isinstance(start, int | float):
        raise SecurityError("only numbers are summed up")


_CHECKS: dict[str, Callable[..., None]] = {
    "batch": _check_batch,
    "center": _check_center,
    "format": _check_format_filter,
    "indent": _check_indent,
    "int": _check_int,
    "replace": _check_replace_filter,
    "round": _check_round,
    "slice": _check_slice,
    "striptags": _check_tags,
    "sum": _check_sum,
    "tojson": _check_json,
    "urlize": _check_urlize,
    "wordwrap": _check_wordwrap,
}
# These return a number or one of their arguments.
_UNCHANGED = frozenset(
    {"attr", "count", "d", "default", "first", "last", "length", "max", "min", "wordcount"}
)
