"""Words the faults of a YAML file. Knows the findings of pydantic, not pydantic itself."""

import difflib
import json
from collections.abc import Iterable, Mapping
from typing import Any, get_args

_BOUNDS = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
_TYPES = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "text",
    "list_type": "a list",
    "dict_type": "a mapping (key: value)",
    "model_type": "a mapping (key: value)",
    "model_attributes_type": "a mapping (key: value)",
}


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a hint with the nearest of the `known` names, or all of them if none is near."""
    names = sorted(set(known))
    near = difflib.get_close_matches(name, names, n=1)
    if not near:
        near = [n for n in names if n.lower() == name.lower()]
    if near:
        return f"did you mean {near[0]!r}?"
    return f"known here: {', '.join(names)}" if names else ""


def wording(fault: Mapping[str, Any]) -> str:
    """Return the rest of a sentence that begins with the name of the key."""
    context = fault.get("ctx", {})
    found = show(fault["input"])
    kind = fault["type"]
    if kind == "value_error":
        return str(context["error"])
    if kind == "literal_error":
        expected = context["expected"].replace("True", "true").replace("False", "false")
        return f"must be {expected}, found {found}"
    if kind in _TYPES:
        unquoted = kind == "string_type" and isinstance(fault["input"], bool | int | float)
        return f"must be {_TYPES[kind]}, found {found}" + (
            " (put it in quotes)" if unquoted else ""
        )
    for bound, words in _BOUNDS.items():
        if bound in context:
            limit = context[bound]
            said = f"{limit:g}" if isinstance(limit, float) else str(limit)
            return f"must be {words} {said}, found {found}"
    if kind in ("string_too_short", "too_short"):
        return "must not be empty"
    message = str(fault["msg"])
    return message[:1].lower() + message[1:] + f", found {found}"


def dotted(keys: Iterable[str | int]) -> str:
    """Format keys as `jobs[0].sampling.top_p`."""
    text = "".join(f"[{k}]" if isinstance(k, int) else f".{k}" for k in keys)
    return text.removeprefix(".")


def show(value: object) -> str:
    """Format a value as in the file, shortened."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def names_at(model_cls: Any, loc: Iterable[str | int]) -> list[str]:
    """Return the valid field names at `loc`; list indexes and union tags are skipped."""
    owners = [model_cls]
    for key in loc:
        inner = [
            model
            for owner in owners
            if key in owner.model_fields
            for model in _models_in(owner.model_fields[str(key)])
        ]
        owners = inner or owners
    return [name for owner in owners for name in owner.model_fields]


def _models_in(annotation: Any) -> list[Any]:
    annotation = getattr(annotation, "annotation", annotation)
    if hasattr(annotation, "model_fields"):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]
