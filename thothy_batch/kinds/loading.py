"""Loads kinds by name or path and reports every problem with its line."""

import hashlib
import json
import os
from pathlib import Path

from thothy_batch.errors import ManifestError, Problem
from thothy_batch.kinds.kind import Kind, Output, ParamSpec, Stage
from thothy_batch.kinds.kind_file import KindFile, ParamFile
from thothy_batch.kinds.validation import validate_kind
from thothy_batch.resources import data_path
from thothy_batch.yaml_source import Located, did_you_mean, load_yaml, validate


def builtin_kinds() -> list[str]:
    """Return the names of the built-in kinds."""
    return sorted(path.stem for path in data_path("jobs").glob("*.yaml"))


def load_kind(name_or_path: str, base: Path) -> Kind:
    """Load a built-in kind by name, or a kind file by its path relative to `base`.

    Raises ManifestError with all problems of the file.
    """
    path = _find(name_or_path, base)
    located = load_yaml(path)
    kind_file, problems = validate(KindFile, located, path)
    problems += validate_kind(located, path)
    if problems or kind_file is None:
        raise ManifestError(sorted(problems, key=lambda problem: problem.line or 0))
    return _build(kind_file, located)


def _find(name_or_path: str, base: Path) -> Path:
    names = builtin_kinds()
    if name_or_path in names:
        return data_path("jobs") / f"{name_or_path}.yaml"
    looks_like_path = "/" in name_or_path or name_or_path.endswith((".yaml", ".yml"))
    if looks_like_path:
        path = base / os.path.expanduser(name_or_path)
        if not os.path.isfile(path):
            hint = f"built-in kinds: {', '.join(names)}"
            raise ManifestError([Problem(f"there is no kind file {path}", hint=hint)])
        return path
    hint = did_you_mean(name_or_path, names)
    message = f"unknown kind {name_or_path!r}: neither a built-in kind nor the path of a .yaml file"
    raise ManifestError([Problem(message, hint=hint)])


def _build(file: KindFile, located: Located) -> Kind:
    return Kind(
        name=file.kind,
        content_hash=_content_hash(located),
        entry=file.entry,
        stages=tuple(Stage(stage.name, stage.instruction) for stage in file.stages),
        description=file.description,
        version=file.version,
        fields=tuple(file.fields),
        optional_fields=tuple(file.optional_fields),
        raw=file.raw,
        system=file.system,
        document=file.document,
        output=Output(file.output.format, tuple(file.output.sections)),
        checks=file.checks.model_dump(exclude_none=True),
        params={name: _param_spec(param) for name, param in file.params.items()},
        samples=file.samples,
        sampling=file.sampling.model_dump(exclude_none=True),
        retry_temperature=file.retry_temperature,
    )


def _param_spec(param: ParamFile) -> ParamSpec:
    required = "default" not in param.model_fields_set
    return ParamSpec(param.type, required, param.default, param.min, param.max)


def _content_hash(located: Located) -> str:
    """Hash the file without comments, layout and description, which change no artifact."""
    assert isinstance(located.value, dict)
    said = {key: value for key, value in located.value.items() if key != "description"}
    text = json.dumps(said, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
