"""Manifest value types whose written form differs from their use, with JSON Schema."""

import json
from datetime import UTC, datetime
from typing import Annotated, Any

from thothy_batch.choices import MAX_COUNT
from thothy_batch.manifest.units import parse_deadline, parse_duration, parse_memory
from thothy_batch.yaml_source import BeforeValidator, Field, WithJsonSchema


def later(*names: str, use: str) -> BeforeValidator:
    """Refuse by name values that do not exist yet."""

    def check(value: object) -> object:
        if value in names:
            raise ValueError(f"{value!r} does not exist yet; use {use}")
        return value

    return BeforeValidator(check)


def _auto_is_none(value: object) -> object:
    if isinstance(value, str) and value != "auto":
        raise ValueError(f"must be auto or a whole number, found {value!r}")
    return None if value == "auto" else value


def _one_or_many(value: object) -> object:
    return [value] if isinstance(value, str) else value


def check_deadline(value: object) -> str | None:
    if value is None:
        return None
    parse_deadline(value, datetime(2026, 1, 1, tzinfo=UTC))  # only checked for readability
    return str(value)


def _check_template_kwargs(value: object) -> object:
    """Refuse the names that the program itself gives to a chat template."""
    given = value if isinstance(value, dict) else {}
    for name in given:
        if name in _RESERVED_KWARGS:
            raise ValueError(f"may not set {name!r}: {_RESERVED_KWARGS[name]}")
    try:
        json.dumps(given, allow_nan=False)
    except ValueError:
        raise ValueError("holds a number that JSON does not have (.inf or .nan)") from None
    return value


def check_metrics_file(value: object) -> str | None:
    """Check the name: the file is replaced repeatedly, so it must be meant for metrics."""
    if value is None:
        return None
    if not isinstance(value, str) or not value.endswith(".prom") or "\0" in value:
        raise ValueError(f"must be the name of a file that ends in .prom, found {value!r}")
    return value


_DURATION = {"type": "string", "pattern": r"^(\d+(\.\d+)?h)?(\d+(\.\d+)?m)?(\d+(\.\d+)?s)?$"}
_GIVEN, _NO_TOOLS = "the messages come from the kind", "tools and documents do not exist yet"
_RESERVED_KWARGS = {
    "messages": _GIVEN,
    "conversation": _GIVEN,
    "add_generation_prompt": "every prompt ends where the model's turn begins",
    "continue_final_message": "every prompt ends where the model's turn begins",
    "chat_template": "the template comes from the model's folder",
    "tools": _NO_TOOLS,
    "documents": _NO_TOOLS,
    "tokenize": "prompts are always tokenised",
}
TEXT_OR_TEXTS = {
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]
}


def name_fault(name: str) -> str:
    """Return why a text cannot be the name of a job, or ""."""
    if not name.strip():
        return "is empty"
    return "" if name.isprintable() else "holds control characters"


def _plain_name(name: object) -> object:
    fault = name_fault(name) if isinstance(name, str) else ""
    if fault:
        raise ValueError(fault)
    return name


AutoCount = Annotated[
    Annotated[int, Field(ge=1, le=MAX_COUNT)] | None,
    BeforeValidator(_auto_is_none),
    WithJsonSchema(
        {"anyOf": [{"const": "auto"}, {"type": "integer", "minimum": 1, "maximum": MAX_COUNT}]}
    ),
]
KvMemory = Annotated[
    int | float | None,
    BeforeValidator(parse_memory),
    WithJsonSchema(
        {
            "anyOf": [
                {"const": "auto"},
                {"type": "string", "pattern": r"^\d+(\.\d+)? ?[KMGT]i?B$"},
                {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
            ]
        }
    ),
]
Duration = Annotated[float, BeforeValidator(parse_duration), WithJsonSchema(_DURATION)]
TemplateKwargs = Annotated[dict[str, Any], BeforeValidator(_check_template_kwargs)]
NonEmpty = Annotated[str, Field(min_length=1)]
Name = Annotated[str, BeforeValidator(_plain_name)]
PossiblyNoTexts = Annotated[
    list[NonEmpty],
    BeforeValidator(_one_or_many),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]
Texts = Annotated[
    list[NonEmpty],
    BeforeValidator(_one_or_many),
    Field(min_length=1),
    WithJsonSchema(TEXT_OR_TEXTS),
]
