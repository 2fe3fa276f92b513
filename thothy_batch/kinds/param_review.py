"""Validates the parameters of a kind file."""

from collections.abc import Iterator
from typing import cast, get_args

from thothy_batch.errors import Problem
from thothy_batch.kinds.kind import ParamSpec, ParamType
from thothy_batch.kinds.kind_source import KindSource, mapping, number, text
from thothy_batch.kinds.resolve import check_value, show_bound
from thothy_batch.yaml_source import did_you_mean


def review_params(source: KindSource) -> Iterator[Problem]:
    """Yield problems of names, bounds, and defaults outside them."""
    for name, values in source.params.items():
        if not name.isidentifier() or name.startswith("_"):
            yield source.problem(("params", name), f"param {name!r} is no name for templates")
        found = _spec_problem(mapping(values))
        if found:
            key, message = found
            yield source.problem(("params", name, key), f"params.{name}: {message}")
    languages = mapping(source.params.get("target_langs"))
    if source.entry == "target_lang" and languages.get("type", "list") != "list":
        yield source.problem(("params", "target_langs"), "params.target_langs must be of type list")


def review_samples(source: KindSource) -> Iterator[Problem]:
    """Yield a problem unless `samples` names an integer parameter and the output holds several."""
    name = text(source.values.get("samples"))
    if not name:
        return
    if name not in source.params:
        hint = did_you_mean(name, source.params)
        yield source.problem(("samples",), f"samples names no param: {name!r}", hint)
        return
    spec = mapping(source.params[name])
    low = number(spec.get("min"))
    if spec.get("type") != "int" or low is None or low < 1 or spec.get("default") is None:
        yield source.problem(
            ("params", name),
            f"params.{name} counts samples: it needs type int, min 1 or more, and a default",
        )
    if mapping(source.values.get("output")).get("format") != "lines":
        yield source.problem(
            ("samples",), "several samples make a list: set output to {format: lines}"
        )


def _spec_problem(spec: dict[str, object]) -> tuple[str, str] | None:
    """Return the key at fault and the message."""
    kind, low, high = text(spec.get("type")), number(spec.get("min")), number(spec.get("max"))
    if kind not in get_args(ParamType):
        return None
    if kind not in ("int", "float") and not (low is None and high is None):
        return "min" if low is not None else "max", "min and max belong to int and float"
    if low is not None and high is not None and low > high:
        return "min", f"min {show_bound(low)} is above max {show_bound(high)}"
    default = spec.get("default")
    if default is None:
        return None
    message = check_value("default", ParamSpec(cast(ParamType, kind), min=low, max=high), default)
    return ("default", message) if message else None
