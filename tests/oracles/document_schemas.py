"""Derives JSON Schemas of the documents that `--json` prints from their types."""

import dataclasses
import json
import types
from collections.abc import Mapping, Sequence
from inspect import cleandoc
from pathlib import Path
from typing import (
    Any,
    Literal,
    NotRequired,
    Required,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from jsonschema import Draft202012Validator

from thothy_batch.bench.figures import DERIVED, BenchFigures
from thothy_batch.errors import FailedDocument
from thothy_batch.report.document import ReportDocument
from thothy_batch.runner.commands.doctor_document import DoctorDocument
from thothy_batch.runner.commands.plan_types import PlanDocument
from thothy_batch.runner.monitoring.status_document import StatusDocument
from thothy_batch.runner.session.run_document import RunDocument

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "schema"
DOCUMENTS: dict[str, Any] = {
    "bench": BenchFigures,
    "doctor": DoctorDocument,
    "error": FailedDocument,
    "plan": PlanDocument,
    "report": ReportDocument,
    "run": RunDocument,
    "status": StatusDocument,
}
PLAIN: dict[Any, dict[str, Any]] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    type(None): {"type": "null"},
    object: {},
}


def schema(name: str) -> dict[str, Any]:
    """The schema of a command's document."""
    parts: dict[str, dict[str, Any]] = {}
    root = derive(DOCUMENTS[name], parts)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"thothy-batch {name} --json" if name != "error" else "thothy-batch: an error",
        **root,
        "$defs": dict(sorted(parts.items())),
    }


def derive(hint: Any, parts: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The schema of one type; objects are collected in `parts`."""
    if hint in PLAIN:
        return dict(PLAIN[hint])
    origin, args = get_origin(hint), get_args(hint)
    if origin in (NotRequired, Required):
        return derive(args[0], parts)
    if origin is Literal:
        return {"enum": list(args)}
    if origin in (Union, types.UnionType):
        if all(arg in PLAIN for arg in args):
            return {"type": [PLAIN[arg]["type"] for arg in args]}
        return {"anyOf": [derive(arg, parts) for arg in args]}
    if origin in (list, tuple, dict, Mapping):
        return derive_container(origin, args, parts)
    if is_typeddict(hint) or dataclasses.is_dataclass(hint):
        if hint.__name__ not in parts:
            parts[hint.__name__] = {}
            parts[hint.__name__] = derive_object(hint, parts)
        return {"$ref": f"#/$defs/{hint.__name__}"}
    raise TypeError(f"JSON has nothing for the type {hint}")


def derive_container(
    origin: Any, args: Sequence[Any], parts: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """The schema of a list, of a tuple of fixed or any length, or of an object with any keys."""
    if origin in (dict, Mapping):
        return {"type": "object", "additionalProperties": derive(args[1], parts)}
    if origin is tuple and args[-1] is not ...:
        items = [derive(arg, parts) for arg in args]
        return {"type": "array", "prefixItems": items, "items": False, "minItems": len(items)}
    return {"type": "array", "items": derive(args[0], parts)}


def derive_object(hint: Any, parts: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The schema of an object with just these keys."""
    hints = get_type_hints(hint, include_extras=True)
    required = set(hints) if not is_typeddict(hint) else set(hint.__required_keys__)
    if hint is BenchFigures:
        for name in DERIVED:
            hints[name] = get_type_hints(getattr(BenchFigures, name).fget)["return"]
            required.add(name)
    return {
        "type": "object",
        "description": " ".join(cleandoc(hint.__doc__).split()),
        "properties": {name: derive(part, parts) for name, part in hints.items()},
        "required": [name for name in hints if name in required],
        "additionalProperties": False,
    }


def check_document(name: str, document: object) -> None:
    """Asserts that a document has the keys and types of its schema, and no others."""
    validator = Draft202012Validator(schema(name))
    errors = [
        f"{error.json_path}: {error.message}"
        for top in validator.iter_errors(json.loads(json.dumps(document, allow_nan=False)))
        for error in (top, *(top.context or ()))
    ]
    assert not errors, "\n".join(errors)[:2000]


def files() -> dict[Path, str]:
    """The files as they should be."""
    return {
        FOLDER / f"{name}.json": json.dumps(schema(name), indent=1, ensure_ascii=False) + "\n"
        for name in DOCUMENTS
    }
