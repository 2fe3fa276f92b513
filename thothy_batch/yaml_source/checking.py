"""Validates plain values into settings and words pydantic's findings as problems."""

import difflib
import re
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from thothy_batch.errors import Problem
from thothy_batch.yaml_source.located import Keys, Located
from thothy_batch.yaml_source.wording import did_you_mean, dotted, names_at, show, wording

Model = TypeVar("Model", bound=BaseModel)


class StrictModel(BaseModel):
    """Base of all settings: frozen, unknown keys refused, no silent type conversion."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def validate(
    model_cls: type[Model], located: Located, path: str | Path = ""
) -> tuple[Model | None, list[Problem]]:
    """Validate a file against a model; return the instance, or None with all problems.

    `path` names the file in messages; default: the path it was loaded from.
    """
    where = str(path) or located.path
    problems = list(located.problems)
    if not isinstance(located.value, dict):
        found = "empty" if located.value is None else f"not a mapping but {show(located.value)}"
        return None, [*problems, Problem(f"the file is {found}", where)]
    instance, faults = _validated(model_cls, located.value)
    texts = {
        keys: located.texts[keys] for keys in map(located.resolve, faults) if keys in located.texts
    }
    if texts:
        for keys, text in texts.items():
            _replace(located.value, keys, text)
        instance, left = _validated(model_cls, located.value)
        # What fits neither as text is reported as what it is without quotes.
        faults = {loc: faults.get(loc, fault) for loc, fault in left.items()}
    for loc, fault in faults.items():
        if located.resolve(loc) not in located.unreadable:
            problems.append(_problem(model_cls, located, where, fault))
    problems.sort(key=lambda p: p.line or 0)
    return (None if problems else instance), problems


def _validated(
    model_cls: type[Model], value: object
) -> tuple[Model | None, dict[Keys, dict[str, Any]]]:
    """Return the instance, or None with the findings of pydantic by place."""
    try:
        return model_cls.model_validate(value), {}
    except ValidationError as error:
        return None, {fault["loc"]: dict(fault) for fault in error.errors(include_url=False)}


def _replace(value: Any, keys: Keys, text: str) -> None:
    """Put a text at `keys` of plain values."""
    for key in keys[:-1]:
        value = value[key]
    value[keys[-1]] = text


def _problem(
    model_cls: type[BaseModel], located: Located, path: str, fault: dict[str, Any]
) -> Problem:
    """Word one finding of pydantic as a problem."""
    loc: Keys = tuple(fault["loc"])
    known = located.resolve(loc)
    name = dotted(known)
    hint = ""
    if fault["type"] == "extra_forbidden":
        message = f"unknown key {name!r}"
        hint = did_you_mean(str(loc[-1]), names_at(model_cls, loc[:-1]))
        if loc[-1] == "<<":
            hint = "YAML 1.2 has no merge keys: write the keys out"
    elif fault["type"] == "missing":
        message = f"{dotted((*known, loc[-1]))} is missing"
    else:
        message = f"{name} {wording(fault)}" if name else wording(fault)
        expected = fault.get("ctx", {}).get("expected")
        if fault["type"] == "literal_error" and isinstance(fault["input"], str):
            near = difflib.get_close_matches(fault["input"], re.findall(r"'(\w+)'", expected), n=1)
            hint = f"did you mean {near[0]!r}?" if near else ""
    return Problem(message, path, located.line(*known), hint)
