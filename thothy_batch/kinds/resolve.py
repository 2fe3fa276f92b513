"""Resolves an entry's settings: a row's own values, then the job's, then the kind's defaults."""

import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, cast

from thothy_batch.canonical import canonical_text
from thothy_batch.choices import SAMPLING_BOUNDS, Bounds
from thothy_batch.kinds.kind import Kind, ParamSpec
from thothy_batch.records import Sampling
from thothy_batch.yaml_source import did_you_mean

_LARGEST = sys.float_info.max  # integers may be larger; NaN never compares as smaller
_SAMPLING_KEYS = frozenset(Sampling.__dataclass_fields__)
_WRITTEN_AS_CODE = (str, int, float, list, tuple, dict, type(None))
_MARK = re.compile(r"#[0-9]+\Z")
_TYPE_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "list": "a list of texts",
}


class InvalidValueError(ValueError):
    """An unusable param or sampling value.

    In a job it becomes a ManifestError, in a row invalid_input. `problems` are sentences; `str()`
    joins them.
    """

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("; ".join(problems))


def resolve_params(
    kind: Kind,
    job_params: Mapping[str, object] | None,
    row_params: object = None,
) -> dict[str, object]:
    """Return every parameter of the kind with its value. None counts as missing.

    Raises InvalidValueError with all problems: unknown names, wrong types, out of bounds, missing.
    """
    if row_params is not None and not isinstance(row_params, Mapping):
        raise InvalidValueError([f"params must be a mapping, found {_show(row_params)}"])
    given = {**_without_none(job_params), **_without_none(row_params)}
    problems = [
        f"kind {kind.name!r} has no param {name!r}" + _in_brackets(did_you_mean(name, kind.params))
        for name in given
        if name not in kind.params
    ]
    values: dict[str, object] = {}
    for name, spec in kind.params.items():
        value = given.get(name, spec.default)
        if value is None:
            if spec.required:
                problems.append(f"params.{name} is missing: kind {kind.name!r} has no default")
            values[name] = None
            continue
        values[name], problem = _checked(f"params.{name}", spec, value)
        problems += [problem] if problem else []
    if problems:
        raise InvalidValueError(problems)
    return values


def resolve_sampling(
    kind: Kind,
    job_sampling: Mapping[str, object] | None,
    row_sampling: Mapping[str, object] | None = None,
) -> Sampling:
    """Return the sampling settings: the kind's defaults, the job's, a row's own.

    Raises InvalidValueError with all problems.
    """
    given = {**kind.sampling, **_without_none(job_sampling), **_without_none(row_sampling)}
    problems = [f"unknown sampling key {name!r}" for name in given if name not in _SAMPLING_KEYS]
    for name, bounds in SAMPLING_BOUNDS.items():
        if name not in given:
            continue
        number = _convert("int" if bounds.whole else "float", given[name])
        problem = _bound_problem(name, bounds, number, given[name])
        problems += [problem] if problem else []
        given[name] = number
    if problems:
        raise InvalidValueError(problems)
    repetition_stop = given.get("repetition_stop", "auto")
    if repetition_stop == "auto":
        given["repetition_stop"] = not kind.raw and not given.get("ignore_eos", False)
    for name in ("stop", "stop_token_ids"):
        given[name] = tuple(cast(Sequence[object], given.get(name, ())))
    return Sampling(**cast(dict[str, Any], given))


def resolve_samples(kind: Kind, params: Mapping[str, object], sampling: Sampling) -> int:
    """Return the number of samples per prompt.

    Raises InvalidValueError for several samples at temperature 0: they would be equal.
    """
    if not kind.samples:
        return 1
    num_samples = params[kind.samples]
    assert isinstance(num_samples, int)
    if num_samples > 1 and sampling.temperature == 0:
        raise InvalidValueError(
            [
                f"params.{kind.samples} is {num_samples}, but at temperature 0 all samples are the "
                f"same; set sampling.temperature above 0 or params.{kind.samples} to 1"
            ]
        )
    return num_samples


def resolve_languages(kind: Kind, params: Mapping[str, object], row_language: object) -> list[str]:
    """Return the target languages of an item: the row's own, else those of the params.

    Each occurs once. Raises InvalidValueError if the list is empty.
    """
    if row_language is not None and row_language != "":
        if not isinstance(row_language, str):
            raise InvalidValueError([f"target_lang must be text, found {_show(row_language)}"])
        return _without_marks([row_language])
    languages = params.get("target_langs") or []
    assert isinstance(languages, list)
    if not languages:
        raise InvalidValueError(
            [
                f"kind {kind.name!r} has no target language here: set params.target_langs, or give "
                "a column target_lang"
            ]
        )
    return _without_marks(list(dict.fromkeys(languages)))


def _without_marks(languages: list[str]) -> list[str]:
    """Return the languages; refuse one that ends in #2, #3, ...

    Rows that repeat an id have these marks behind their language. Raises InvalidValueError.
    """
    marked = [language for language in languages if _MARK.search(language)]
    if marked:
        raise InvalidValueError(
            [f"the language {_show(marked[0])} ends like the mark of a row that repeats an id"]
        )
    return languages


def check_value(name: str, spec: ParamSpec, value: object) -> str:
    """Return why a value does not suit this parameter; "" if it does."""
    return _checked(name, spec, value)[1]


def _checked(name: str, spec: ParamSpec, value: object) -> tuple[object, str]:
    """Return the value in the parameter's type, and what is wrong with it ("": nothing)."""
    converted = _convert(spec.type, value)
    if converted is None:
        return None, f"{name} must be {_TYPE_WORDS[spec.type]}, found {_show(value)}"
    if isinstance(converted, int | float) and not isinstance(converted, bool):
        if spec.min is not None and converted < spec.min:
            return None, f"{name} must be at least {show_bound(spec.min)}, found {_show(value)}"
        if spec.max is not None and converted > spec.max:
            return None, f"{name} must be at most {show_bound(spec.max)}, found {_show(value)}"
    return converted, ""


def show_bound(bound: float) -> str:
    """Format a bound for messages; integers may be larger than any float."""
    return str(bound) if isinstance(bound, int) else f"{bound:g}"


def _convert(type_name: str, value: object) -> object:
    """Convert the value; None if it is not of the type.

    A whole float counts as an int: Parquet writers turn integers beside nulls into floats.
    """
    number = value if isinstance(value, int | float) and not isinstance(value, bool) else None
    if type_name == "int":
        whole = isinstance(number, int) or (number is not None and number.is_integer())
        return int(number) if number is not None and whole else None
    if type_name == "float":
        return number if number is not None and abs(number) <= _LARGEST else None
    if type_name == "str":
        return value if isinstance(value, str) else None
    if type_name == "bool":
        return value if isinstance(value, bool) else None
    if not isinstance(value, list | tuple):
        return None
    return list(value) if all(isinstance(text, str) and text for text in value) else None


def _bound_problem(name: str, bounds: Bounds, number: object, value: object) -> str:
    if not isinstance(number, int | float):
        word = _TYPE_WORDS["int" if bounds.whole else "float"]
        return f"{name} must be {word}, found {_show(value)}"
    wanted = ""
    if bounds.ge is not None and number < bounds.ge:
        wanted = f"at least {show_bound(bounds.ge)}"
    elif bounds.gt is not None and number <= bounds.gt:
        wanted = f"more than {show_bound(bounds.gt)}"
    elif bounds.le is not None and number > bounds.le:
        wanted = f"at most {show_bound(bounds.le)}"
    return f"{name} must be {wanted}, found {_show(value)}" if wanted else ""


def _without_none(values: object) -> dict[str, object]:
    if not isinstance(values, Mapping):
        return {}
    # Some Parquet writers store a missing number as NaN.
    return {str(name): v for name, v in values.items() if v is not None and v == v}


def _in_brackets(hint: str) -> str:
    return f" ({hint})" if hint else ""


def _show(value: object) -> str:
    text = repr(value) if isinstance(value, _WRITTEN_AS_CODE) else canonical_text(value)
    return text if len(text) <= 60 else text[:57] + "..."
