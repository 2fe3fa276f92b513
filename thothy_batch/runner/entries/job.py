"""The jobs of a run, all checked before anything starts."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from thothy_batch.errors import ManifestError, Problem
from thothy_batch.kinds import (
    InvalidValueError,
    Kind,
    load_kind,
    resolve_languages,
    resolve_params,
    resolve_samples,
    resolve_sampling,
)
from thothy_batch.manifest import (
    ROW_SAMPLING,
    FileInput,
    ItemSource,
    JobRowsInput,
    JobSettings,
    Manifest,
    SqlInput,
    open_items,
    parse_deadline,
)
from thothy_batch.records import Sampling
from thothy_batch.runner.entries.deadlines import has_passed


@dataclass(slots=True)
class Job:
    """One job: its settings, its kind and the source of its items."""

    index: int
    settings: JobSettings
    kind: Kind
    source: ItemSource
    params: dict[str, object]
    sampling: Sampling
    num_samples: int
    deadline: float | None = None  # its own, in seconds since 1970
    ends_at: float | None = None  # time.monotonic() of it as foreseen at the start, for the plan
    _samplings: dict[object, Sampling] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.settings.name

    @property
    def is_past_deadline(self) -> bool:
        """True once the job's own deadline has passed."""
        return self.deadline is not None and has_passed(self.deadline)

    @property
    def group_by(self) -> str:
        """The field that groups the items of a `group` kind; "": each item is its own group."""
        return str(self.params["group_by"]) if _has_groups(self.kind, self.params) else ""

    def params_of(self, row_params: object) -> dict[str, object]:
        """The job's params with a row's own on top. Raises InvalidValueError."""
        if row_params is None:
            return self.params
        return resolve_params(self.kind, self.settings.params, row_params)

    def sampling_of(self, values: Mapping[str, object]) -> Sampling:
        """The job's sampling with what a row's values override. Raises InvalidValueError."""
        own = tuple(values.get(name) for name in self._row_sampling)
        if all(value is None for value in own):
            return self.sampling
        if own not in self._samplings:
            row = dict(zip(self._row_sampling, own, strict=True))
            given = self.settings.sampling.given()
            self._samplings[own] = resolve_sampling(self.kind, given, row)
        return self._samplings[own]

    @property
    def _row_sampling(self) -> tuple[str, ...]:
        return ("max_tokens", *_named_sampling(self.settings))


def open_jobs(manifest: Manifest) -> list[Job]:
    """Open every job: kind, params, sampling, input. Raises ManifestError with all problems."""
    jobs: list[Job] = []
    problems: list[Problem] = []
    now = datetime.now().astimezone()
    offset = time.monotonic() - time.time()  # one for all jobs: equal deadlines stay equal
    for settings in manifest.jobs:
        try:
            job = _open_job(len(jobs), settings, manifest)
            if settings.deadline is not None:
                job.deadline = parse_deadline(settings.deadline, now).timestamp()
                job.ends_at = job.deadline + offset
        except ManifestError as error:
            problems += error.problems
            continue
        problems += [_at_input(settings, problem) for problem in job.source.check()]
        jobs.append(job)
    if problems:
        raise ManifestError(list(dict.fromkeys(problems)))
    return jobs


def _at_input(settings: JobSettings, problem: Problem) -> Problem:
    """A problem of an input file, at the line of the manifest that names the file."""
    if problem.line is not None or not problem.path:
        return problem
    return settings.problem("input", f"{problem.path}: {problem.message}", problem.hint)


def _open_job(index: int, settings: JobSettings, manifest: Manifest) -> Job:
    kind = _load_kind(settings, manifest)
    problems: list[Problem] = []
    params: dict[str, object] = {}
    sampling, num_samples = Sampling(), 1
    try:
        params = resolve_params(kind, settings.params)
        if kind.entry == "target_lang" and params.get("target_langs"):
            resolve_languages(kind, params, None)
            problems += _repeated_languages(settings)
    except InvalidValueError as error:
        problems += [settings.problem("params", text) for text in error.problems]
    try:
        sampling = resolve_sampling(kind, settings.sampling.given())
        if params or not problems:
            num_samples = resolve_samples(kind, params, sampling)
    except InvalidValueError as error:
        problems += [settings.problem("sampling", text) for text in error.problems]
    if problems:
        raise ManifestError(problems)
    fields, optional = _fields(kind, params, settings)
    source = open_items(
        settings,
        manifest.base,
        fields=fields,
        optional=optional,
        limit=manifest.limit,
        raw=kind.raw,
        group_by=str(params["group_by"]) if _has_groups(kind, params) else "",
    )
    return Job(index, settings, kind, source, params, sampling, num_samples)


def _repeated_languages(settings: JobSettings) -> list[Problem]:
    """Find languages that the manifest lists twice: which one was meant is not for us to guess."""
    given = settings.params.get("target_langs")
    languages = given if isinstance(given, list) else []
    return [
        settings.problem(
            f"params.target_langs.{i}",
            f"params.target_langs lists {language!r} twice",
            "an item is due one translation per language: remove one, or correct it",
        )
        for i, language in enumerate(languages)
        if language in languages[:i]
    ]


def _load_kind(settings: JobSettings, manifest: Manifest) -> Kind:
    try:
        return load_kind(settings.kind, manifest.base)
    except ManifestError as error:
        located = [
            p if p.path else settings.problem("kind", p.message, p.hint) for p in error.problems
        ]
        raise ManifestError(located) from None


def _fields(
    kind: Kind, params: dict[str, object], settings: JobSettings
) -> tuple[set[str], set[str]]:
    """Required and optional fields of the items."""
    fields, optional = set(kind.fields), set(kind.optional_fields)
    optional |= {"max_tokens", *_named_sampling(settings)}
    if kind.entry == "target_lang":
        # With languages in the params, a column of that name is optional and overrides them.
        has_languages = bool(params.get("target_langs"))
        in_job_file = isinstance(settings.input, JobRowsInput)
        (optional if has_languages or in_job_file else fields).add("target_lang")
    if _has_groups(kind, params):
        fields.add(str(params["group_by"]))
    assert isinstance(settings.input, FileInput | SqlInput | JobRowsInput)
    return fields, optional - fields


def _has_groups(kind: Kind, params: dict[str, object]) -> bool:
    return kind.entry == "group" and isinstance(params.get("group_by"), str)


def _named_sampling(settings: JobSettings) -> list[str]:
    """The sampling settings that a row may override because the job names their column."""
    return [name for name in ROW_SAMPLING if name in settings.columns]
