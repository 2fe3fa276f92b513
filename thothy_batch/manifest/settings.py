"""Loads a manifest into validated settings and reports all problems at once."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path
from typing import Any

from thothy_batch.choices import DEVICES
from thothy_batch.errors import ManifestError, Problem, without_passwords
from thothy_batch.manifest.inputs import FileInput, JobFileSettings, JobRowsInput, SqlInput
from thothy_batch.manifest.job_file import discover_jobs, is_parquet
from thothy_batch.manifest.sections import (
    EngineSettings,
    JobSettings,
    ManifestFile,
    ModelSettings,
    OutputSettings,
    RunSettings,
    SamplingSettings,
)
from thothy_batch.manifest.units import parse_deadline, parse_duration, parse_memory
from thothy_batch.manifest.variables import (
    ManifestVariables,
    add_variables,
    parse_variables,
    without_secret_values,
)
from thothy_batch.records import EngineSpec, ModelSpec
from thothy_batch.yaml_source import Located, did_you_mean, load_yaml, validate

__all__ = [
    "EngineSettings",
    "FileInput",
    "JobRowsInput",
    "JobSettings",
    "Manifest",
    "ModelSettings",
    "OutputSettings",
    "Overrides",
    "RunSettings",
    "SamplingSettings",
    "SqlInput",
    "json_schema",
    "load_manifest",
    "parse_deadline",
    "parse_duration",
    "parse_memory",
    "parse_variables",
    "to_engine_spec",
]


@dataclass(frozen=True, slots=True)
class Overrides:
    """Settings of the command line, which override the manifest's.

    Paths are relative to the working folder.
    """

    store: Path | None = None
    model: str | None = None
    device: str | None = None
    jobs: tuple[str, ...] = ()  # empty: all
    limit: int | None = None  # read only the first rows of each job
    variables: Mapping[str, str] = field(default_factory=dict)  # by name, before the environment's


@dataclass(frozen=True, slots=True)
class Manifest:
    """A validated manifest with its overrides applied."""

    path: Path  # the manifest file, absolute
    base: Path  # its folder, the base of relative paths
    store: Path  # absolute
    model: ModelSettings  # a model that is a directory has its absolute path as id
    engine: EngineSettings
    run: RunSettings
    jobs: tuple[JobSettings, ...]
    output: OutputSettings
    limit: int | None = None
    notes: tuple[str, ...] = ()  # what may surprise a user

    def as_json(self) -> dict[str, object]:
        """Return all settings as plain JSON values without passwords, as stored with the run."""
        settings = self._settings()
        for job in settings["jobs"]:
            if isinstance(job["input"], dict) and "sql" in job["input"]:
                job["input"]["sql"] = without_passwords(job["input"]["sql"])
        hidden: dict[str, object] = without_secret_values(settings)
        return hidden

    def _settings(self) -> dict[str, Any]:
        return {
            "store": str(self.store),
            "model": self.model.model_dump(mode="json"),
            "engine": self.engine.model_dump(mode="json"),
            "run": self.run.model_dump(mode="json"),
            "jobs": [job.model_dump(mode="json") for job in self.jobs],
            "output": self.output.model_dump(mode="json"),
            "limit": self.limit,
        }

    @property
    def metrics_path(self) -> Path | None:
        """The file of the run's Prometheus metrics; None if not set."""
        name = self.run.metrics_file
        return None if name is None else self.base / os.path.expanduser(name)

    @property
    def manifest_hash(self) -> str:
        """Hash every setting but the store's path into 32 hex digits."""
        settings = {key: value for key, value in self._settings().items() if key != "store"}
        text = json.dumps(settings, sort_keys=True, ensure_ascii=False)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def load_manifest(
    path: Path, overrides: Overrides | None = None, *, day: date | None = None
) -> Manifest:
    """Load and validate a manifest: YAML, or a Parquet job manifest.

    `day`: the local day on which the run began, which `${date}` shows; by default today.
    Raises ManifestError with every problem that shows without reading the jobs' inputs.
    """
    overrides = overrides or Overrides()
    path = Path(path).absolute()
    day = day or datetime.now().astimezone().date()
    variables = ManifestVariables(overrides.variables, day)
    settings, problems, located = _read(path, variables)
    problems += _override_problems(overrides)
    if settings is None:
        raise ManifestError(problems)
    jobs, found = _jobs(settings, path, located)
    problems += found
    jobs, found = _selected(jobs, overrides.jobs)
    problems += found
    if problems:
        raise ManifestError(problems)
    engine = settings.engine
    if overrides.device is not None:
        engine = engine.model_copy(update={"device": overrides.device})
    return Manifest(
        path=path,
        base=path.parent,
        store=_store(settings, path, overrides),
        model=_model(settings, path, overrides),
        engine=engine,
        run=settings.run,
        jobs=tuple(jobs),
        output=settings.output,
        limit=overrides.limit,
        notes=variables.notes(),
    )


def to_engine_spec(manifest: Manifest) -> EngineSpec:
    """Return the specification of the engine; the plan adds the two token counts."""
    engine, model = manifest.engine, manifest.model
    return EngineSpec(
        model=ModelSpec(
            id=model.id,
            revision=model.revision,
            dtype=model.dtype,
            quantization=model.quantization,
            random_weights=model.random_weights,
            seed=model.seed,
        ),
        device=engine.device,
        impl=engine.impl,
        block_size=engine.block_size,
        kv_memory=engine.kv_memory,
        num_blocks=engine.num_blocks,
        max_seqs=engine.max_seqs,
        max_step_tokens=engine.max_step_tokens,
        prefix_sharing=engine.prefix_sharing,
        admission=engine.admission,
        speculation=engine.speculation,
        stall_s=manifest.run.stall_after,
    )


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a YAML manifest, for editors."""
    schema = add_variables(ManifestFile.model_json_schema())
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "thothy-batch manifest",
    }


def _read(
    path: Path, variables: ManifestVariables
) -> tuple[ManifestFile | None, list[Problem], Located | None]:
    if os.path.isfile(path) and is_parquet(path):
        return ManifestFile(jobs=JobFileSettings(parquet=[path.name])), [], None
    located = load_yaml(path, variables)
    settings, problems = validate(ManifestFile, located)
    problems += _same_names(located)
    return settings, sorted(problems, key=lambda p: p.line or 0), located


def _same_names(located: Located) -> list[Problem]:
    """Find two jobs of one name in the plain values, so that other faults do not hide it."""
    jobs = located.value.get("jobs") if isinstance(located.value, dict) else None
    first_lines: dict[str, int | None] = {}
    problems = []
    for i, job in enumerate(jobs if isinstance(jobs, list) else []):
        name = job.get("name") if isinstance(job, dict) else None
        if not isinstance(name, str):
            continue
        line = located.line("jobs", i, "name")
        if name in first_lines:
            hint = f"the first stands on line {first_lines[name]}; names are unique"
            problems.append(Problem(f"two jobs are named {name!r}", located.path, line, hint))
        first_lines.setdefault(name, line)
    return problems


def _jobs(
    settings: ManifestFile, path: Path, located: Located | None
) -> tuple[list[JobSettings], list[Problem]]:
    if isinstance(settings.jobs, JobFileSettings):
        line = located.line("jobs", "parquet") if located else None
        return discover_jobs(settings.jobs.parquet, path, line)
    assert located is not None
    lines: list[dict[str, int]] = [{} for _ in settings.jobs]
    for keys, line in located.lines.items():
        if len(keys) > 1 and keys[0] == "jobs":
            lines[int(keys[1])][".".join(str(key) for key in keys[2:])] = line
    for job, lines_of_job in zip(settings.jobs, lines, strict=True):
        job.locate(str(path), lines_of_job)
    return settings.jobs, []


def _selected(
    jobs: list[JobSettings], names: tuple[str, ...]
) -> tuple[list[JobSettings], list[Problem]]:
    if not names or not jobs:
        return jobs, []
    known = [job.name for job in jobs]
    problems = [
        Problem(f"--job {name}: there is no job of that name", hint=did_you_mean(name, known))
        for name in names
        if name not in known
    ]
    return [job for job in jobs if job.name in names], problems


def _override_problems(overrides: Overrides) -> list[Problem]:
    problems = []
    if overrides.device is not None and overrides.device not in DEVICES:
        problems.append(Problem(f"--device {overrides.device}: must be auto, cpu or cuda"))
    if overrides.limit is not None and overrides.limit < 1:
        problems.append(Problem(f"--limit {overrides.limit}: must be at least 1"))
    return problems


def _store(settings: ManifestFile, path: Path, overrides: Overrides) -> Path:
    if overrides.store is not None:
        return Path(os.path.expanduser(overrides.store)).absolute()
    return path.parent / os.path.expanduser(settings.store)


def _model(settings: ManifestFile, path: Path, overrides: Overrides) -> ModelSettings:
    base = path.parent if overrides.model is None else Path.cwd()
    model_id = settings.model.id if overrides.model is None else overrides.model
    folder = base / os.path.expanduser(model_id)
    if model_id and (model_id.startswith(("./", "../", "/", "~")) or os.path.isdir(folder)):
        model_id = str(folder.absolute())
    return settings.model.model_copy(update={"id": model_id})
