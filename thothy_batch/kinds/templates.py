"""Compiles and renders kind templates in the sandbox; each source compiles once per process.

A template sees values and nothing of Python: no underscore attributes, no mutation of its inputs,
no other files, no randomness, no clock and no time zone of the machine. Values are printed as
`canonical_text` has them: None as an empty string.
"""

import json
import math
from collections.abc import Callable
from datetime import date, datetime, time
from functools import lru_cache
from typing import Any

from thothy_batch.canonical import canonical_text
from thothy_batch.kinds.languages import language_name
from thothy_batch.kinds.text_formats import OF_THE_ZONE, format_values, percent_values, reads_zone
from thothy_batch.templating import BoundedSandbox, bounded_filter, jinja

_FILENAME = "<template>"  # jinja2's own name for templates made from a string
# Methods of dates and times that read the clock or the time zone of the machine.
_OF_THE_MACHINE = frozenset(
    {"astimezone", "fromtimestamp", "now", "timestamp", "today", "utcfromtimestamp", "utcnow"}
)


class TemplateProblem(Exception):  # noqa: N818  (a finding about a row, no fault of ours)
    """A template that cannot be rendered with these values (template_error)."""


def _shown(value: object) -> object:
    """Return what `{{ }}` writes.

    A function or an iterator is refused: it would print its memory address, which differs from run
    to run.
    """
    if value is None:
        return ""
    if isinstance(value, jinja.Undefined):
        return value  # its own error names what is missing
    if callable(value) or hasattr(value, "__next__"):
        name = type(value).__name__
        raise jinja.TemplateRuntimeError(f"{name} is no text: is () or | list missing?")
    if isinstance(value, float) and math.isinf(value):
        raise jinja.TemplateRuntimeError("the number is infinite")
    return canonical_text(value)


class _Sandbox(BoundedSandbox):
    """A sandbox in which values have their canonical text wherever they become text."""

    def text_of(self, value: Any) -> str:
        return value if isinstance(value, str) else canonical_text(value)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "%" and isinstance(left, str):
            right = percent_values(left, right, self.text_of)
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        owner = getattr(__obj, "__self__", None)
        if isinstance(owner, date | time) and any(map(reads_zone, [*args, *kwargs.values()])):
            raise jinja.TemplateRuntimeError(OF_THE_ZONE)
        return super().call(__context, __obj, *args, **kwargs)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None

        def format_text(*args: Any, **kwargs: Any) -> str:
            if value.__name__ == "format_map" and len(args) == 1 and isinstance(args[0], dict):
                _, named = format_values(value.__self__, (), args[0], self.text_of)
                return wrapped(named)
            shown, named = format_values(value.__self__, args, kwargs, self.text_of)
            return wrapped(*shown, **named)

        return format_text

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, date | time) and attr in _OF_THE_MACHINE:
            return attr == "timestamp" and isinstance(obj, datetime) and obj.tzinfo is not None
        return super().is_safe_attribute(obj, attr, value)


def _format(value: object, *args: Any, **kwargs: Any) -> str:
    """Format as Jinja's own filter does, with canonical texts for `%s`."""
    form = canonical_text(value)
    text: str = form % percent_values(form, kwargs or args, canonical_text)
    return text


def _json(value: object, **options: Any) -> str:
    return json.dumps(value, default=canonical_text, **options)


def _environment() -> BoundedSandbox:
    environment = _Sandbox(
        undefined=jinja.StrictUndefined,
        trim_blocks=False,
        lstrip_blocks=False,
        autoescape=False,
        finalize=_shown,
    )
    environment.filters["string"] = bounded_filter("string", environment.text_of, environment.made)
    environment.filters["format"] = bounded_filter("format", _format, environment.made)
    environment.filters["language_name"] = language_name
    environment.policies["json.dumps_function"] = _json
    return environment


_ENVIRONMENT = _environment()
GLOBAL_NAMES = frozenset(_ENVIRONMENT.globals)
FILTER_NAMES = frozenset(_ENVIRONMENT.filters)
TEST_NAMES = frozenset(_ENVIRONMENT.tests)


def parse_template(source: str) -> jinja.nodes.Template:
    """Return the syntax tree. Raises TemplateSyntaxError, which has the line."""
    return _ENVIRONMENT.parse(source)


@lru_cache(maxsize=256)
def compile_template(source: str) -> jinja.Template:
    """Return the compiled template; a process compiles each source once."""
    _ENVIRONMENT.begin()  # constants are folded here
    return _ENVIRONMENT.from_string(source)


@lru_cache(maxsize=256)
def is_constant(source: str) -> bool:
    """True if the source has no template syntax."""
    return not any(mark in source for mark in ("{{", "{%", "{#"))


@lru_cache(maxsize=256)
def literal_head(source: str) -> str:
    """Return the text before the first template syntax, stripped."""
    ends = (source.find(mark) for mark in ("{{", "{%", "{#"))
    return source[: min((end for end in ends if end >= 0), default=len(source))].strip()


def render_template(source: str, variables: dict[str, Any], *, what: str) -> str:
    """Render and strip. `what` names the template in messages ("document").

    Raises TemplateProblem, with the line inside the template if known.
    """
    if is_constant(source):
        return source.strip()
    try:
        template = compile_template(source)
    except RecursionError:  # the stack may be deeper here than during validation
        raise TemplateProblem(f"template {what!r}: nested too deeply") from None
    try:
        _ENVIRONMENT.begin()
        context = template.new_context(variables)
        text = _ENVIRONMENT.concat(template.root_render_func(context))
    except RecursionError:
        raise TemplateProblem(f"template {what!r}: nested too deeply") from None
    except Exception as error:  # a template may raise anything: int("x"), 1 / 0, missing keys
        raise TemplateProblem(_message(template, error, what)) from error
    text = text.strip()
    try:
        text.encode()
    except UnicodeEncodeError:  # from "\\ud800" in a template; no tokenizer accepts it
        raise TemplateProblem(f"template {what!r}: holds half of a surrogate pair") from None
    return text


def _message(template: jinja.Template, error: Exception, what: str) -> str:
    line = None
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == _FILENAME:
            line = template.get_corresponding_lineno(trace.tb_lineno)
        trace = trace.tb_next
    where = f"template {what!r}" + (f", line {line}" if line else "")
    text = str(error) or type(error).__name__
    if not isinstance(error, jinja.TemplateError):
        text = f"{type(error).__name__}: {text}"
    return f"{where}: {text}"
