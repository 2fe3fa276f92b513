"""Validates relations between the keys of a kind file, and its templates."""

from collections.abc import Iterator
from pathlib import Path

from thothy_batch.errors import Problem
from thothy_batch.kinds.kind import RESERVED
from thothy_batch.kinds.kind_source import KindSource, mapping, texts
from thothy_batch.kinds.param_review import review_params, review_samples
from thothy_batch.kinds.template_review import Scope, review_template
from thothy_batch.yaml_source import Located

# check: its output format
_CHECK_FORMATS = {"one_line": "lines", "count": "lines", "sections": "sections"}
_RAW_ENTRY = "a raw kind has one entry per item: entry: item, no samples"


def validate_kind(located: Located, path: Path) -> list[Problem]:
    """Return all problems between keys and inside templates."""
    source = KindSource(located, path)
    problems = [
        *_review_fields(source),
        *review_params(source),
        *review_samples(source),
        *_review_output(source),
        *_review_checks(source),
        *_review_stages(source),
    ]
    problems += _review_raw(source) if source.raw else _review_templates(source)
    return problems


def _review_fields(source: KindSource) -> Iterator[Problem]:
    seen: set[str] = set()
    for key in ("fields", "optional_fields"):
        for i, name in enumerate(texts(source.values.get(key))):
            if name in RESERVED:
                yield source.problem((key, i), f"field {name!r} is a name that templates own")
            elif not name.isidentifier() or name.startswith("_"):
                message = f"field {name!r} is no name for templates: letters, digits and _"
                yield source.problem((key, i), message)
            elif name in seen:
                yield source.problem((key, i), f"field {name!r} stands twice")
            seen.add(name)


def _review_output(source: KindSource) -> Iterator[Problem]:
    output = mapping(source.values.get("output"))
    form = output.get("format", "text")
    sections = texts(output.get("sections"))
    if form == "sections" and not sections:
        yield source.problem(("output",), "output.sections is missing: format sections needs them")
    if form in ("text", "lines") and sections:
        yield source.problem(("output", "sections"), f"format {form} has no sections")
    names = [name.strip().casefold() for name in sections]
    for i, name in enumerate(names):
        if not name or name in names[:i]:
            message = f"section {sections[i]!r} is empty or stands twice"
            yield source.problem(("output", "sections", i), message)


def _review_checks(source: KindSource) -> Iterator[Problem]:
    form = mapping(source.values.get("output")).get("format", "text")
    for name in mapping(source.values.get("checks")):
        needed = _CHECK_FORMATS.get(name, form)
        if source.raw:
            yield source.problem(("checks", name), "a raw kind has no checks")
        elif needed != form:
            message = f"check {name!r} belongs to output format {needed}"
            yield source.problem(("checks", name), message)


def _review_stages(source: KindSource) -> Iterator[Problem]:
    names: list[object] = []
    for i, stage in enumerate(source.stages()):
        name = stage.get("name")
        if name in names:
            yield source.problem(("stages", i, "name"), f"stage {name!r} stands twice")
        names.append(name)
        if source.raw and i > 0:
            yield source.problem(("stages", i), "a raw kind has one stage")
        if not source.raw and not stage.get("instruction"):
            yield source.problem(("stages", i), f"stages[{i}].instruction is missing")


def _review_raw(source: KindSource) -> Iterator[Problem]:
    for keys, template in source.templates():
        if template:
            yield source.problem(keys, "a raw kind renders no templates")
    if source.entry != "item":
        yield source.problem(("entry",), _RAW_ENTRY)
    if source.values.get("samples"):
        yield source.problem(("samples",), _RAW_ENTRY)
    if mapping(source.values.get("output")).get("format", "text") != "text":
        yield source.problem(("output",), "a raw kind has output format text")


def _review_templates(source: KindSource) -> Iterator[Problem]:
    for keys, template in source.templates():
        scope = Scope(
            entry=source.entry,
            fields=frozenset(source.fields) | frozenset(source.optional_fields),
            params=frozenset(source.params),
            has_previous=keys[0] == "stages" and keys[1] != 0,
        )
        for line, message, hint in review_template(template, scope):
            yield source.template_problem(keys, line, message, hint)
