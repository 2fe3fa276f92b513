"""Puts the values of variables into a text: `${NAME}` and `${NAME:-default}`.

A value is text, never syntax, and is not looked at for further variables. Each pair of dollar
signs before a `{` stands for one of them, so `$${` is a `${` that begins nothing. All else stays
as it is.
"""

import re
from dataclasses import dataclass
from typing import Protocol

# Only the first of several dollar signs begins a match: a run of them is read once.
_BEGIN = re.compile(r"(?<!\$)(\$+)\{")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SURROGATE = re.compile("[\ud800-\udfff]")
_DEFAULT = ":-"
_FORMS = "the forms are ${NAME} and ${NAME:-default}; write $${ for a ${ that is meant as it is"
_NOT_CLOSED = "the forms are ${NAME} and ${NAME:-default}; put a text with ' #' or ': ' in quotes"


class Variables(Protocol):
    """The variables that a text may name."""

    def get(self, name: str) -> str | None:
        """Return the value of a variable; None if there is none of that name."""
        ...

    def hint(self, name: str) -> str:
        """Return what to do about an unknown name."""
        ...


@dataclass(frozen=True, slots=True)
class VariableFault:
    """A fault of one variable; `written` is where it begins in the file, as it stands there."""

    message: str
    written: str
    hint: str = ""


def is_variable_name(text: str) -> bool:
    """True for ASCII letters, digits and `_` that begin with no digit."""
    return _NAME.fullmatch(text) is not None


def value_fault(value: str) -> str:
    """Return why a value cannot be put into a text, or ""."""
    if _SURROGATE.search(value):
        return "holds bytes that are not UTF-8 text"
    return "holds a NUL character" if "\0" in value else ""


def expand(text: str, variables: Variables) -> tuple[list[str], list[VariableFault]]:
    """Put the values of variables into a text.

    Returns the new text in parts, and the faults of variables without a value.
    """
    parts: list[str] = []
    faults: list[VariableFault] = []
    done = 0
    while begin := _BEGIN.search(text, done):
        num_dollars = len(begin[1])
        parts += [text[done : begin.start()], "$" * (num_dollars // 2)]
        name = _NAME.match(text, begin.end())
        done = begin.end()
        if num_dollars % 2 == 0:
            parts.append("{")
        elif name is None:
            parts.append("${")
        else:
            end = text.find("}", done)
            if end < 0:
                written = "${" + name[0]
                message = f"variable {written!r} is not closed by '}}'"
                faults.append(VariableFault(message, written, _NOT_CLOSED))
                break
            value, fault = _value(name[0], text[name.end() : end], variables)
            parts.append(value)
            faults += [fault] if fault else []
            done = end + 1
    return [*parts, text[done:]], faults


def _value(name: str, rest: str, variables: Variables) -> tuple[str, VariableFault | None]:
    """Return the value of a variable; `rest` stands between its name and the bracket."""
    written = "${" + name + rest.split("\n", 1)[0]
    if rest and not rest.startswith(_DEFAULT):
        return "", VariableFault(f"'{written}}}' is no variable", written, _FORMS)
    if "{" in rest:
        return "", VariableFault(f"the default of ${{{name}}} holds a '{{'", written, _FORMS)
    value = variables.get(name)
    if rest and not value:
        return rest.removeprefix(_DEFAULT), None
    if value is None:
        message = f"there is no variable {name!r}"
        return "", VariableFault(message, written, variables.hint(name))
    why = value_fault(value)
    return value, VariableFault(f"variable {name!r} {why}", written) if why else None
