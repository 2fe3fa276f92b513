"""Turns items into entries: each ends in exactly one artifact or one row in `failures`."""

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field

from thothy_batch.canonical import canonical_text
from thothy_batch.errors import ManifestError
from thothy_batch.kinds import InvalidValueError, resolve_languages, resolve_samples
from thothy_batch.records import EntryKey, FailureCode, Item, Sampling
from thothy_batch.runner.entries.duplicates import SeenEntries
from thothy_batch.runner.entries.job import Job

INCOMPLETE_GROUP = "incomplete_group"


@dataclass(slots=True, eq=False)
class Entry:
    """One entry, rendered and tokenised later; failed where `code` is set."""

    job: Job
    item_id: str
    variant: str = ""
    variables: dict[str, object] = field(default_factory=dict)
    sampling: Sampling = field(default_factory=Sampling)
    num_samples: int = 1
    flags: tuple[str, ...] = ()  # known before anything is computed, such as a truncated prompt
    code: FailureCode | None = None
    message: str = ""
    prompt_token_ids: "array[int]" = field(default_factory=lambda: array("i"))
    request_key: str = ""

    @property
    def key(self) -> EntryKey:
        return EntryKey(self.job.name, self.item_id, self.variant)

    def samples_of_stage(self, stage: int) -> int:
        """The last stage draws all samples; earlier stages pass one text to the next."""
        return self.num_samples if stage + 1 == len(self.job.kind.stages) else 1

    def fail(self, code: FailureCode, message: str) -> "Entry":
        """Mark the entry failed and free its template variables."""
        self.code, self.message = code, message
        self.variables = {}
        return self


def iter_entries(jobs: list[Job]) -> Iterator[Entry]:
    """Stream the entries of all jobs. Group kinds yield theirs at the end of their input."""
    for job in jobs:
        try:
            yield from _job_entries(job)
        except ManifestError:
            raise
        except UnicodeDecodeError as error:
            raise ManifestError([job.settings.problem("input", str(error))]) from error


def _job_entries(job: Job) -> Iterator[Entry]:
    seen = SeenEntries(job.name)
    if job.kind.entry == "group":
        yield from _group_entries(job, seen)
        return
    for item in job.source:
        if job.kind.entry == "target_lang":
            yield from _language_entries(job, item, seen)
        else:
            yield _entry(job, item, seen)


def _started(job: Job, item: Item, seen: SeenEntries, language: str = "") -> Entry:
    """Return an entry without variables; failed if its row is unusable or repeats one."""
    mark = seen.mark(item.item_id, language)
    entry = Entry(job, item.item_id, language + mark)
    if mark:
        return entry.fail(FailureCode.INVALID_INPUT, seen.message(item, language))
    if item.problem:
        return entry.fail(FailureCode.INVALID_INPUT, f"{item.where}: {item.problem}")
    return entry


def _entry(job: Job, item: Item, seen: SeenEntries, language: str = "", **more: object) -> Entry:
    entry = _started(job, item, seen, language)
    if entry.code is not None:
        return entry
    try:
        params = job.params_of(item.values.get("params"))
        _set_sampling(entry, params, item)
    except InvalidValueError as error:
        return entry.fail(FailureCode.INVALID_INPUT, f"{item.where}: {error}")
    if job.kind.raw:
        entry.variables = item.values
    else:
        entry.variables = {**_fields(job, item), "params": params, **more}
    return entry


def _set_sampling(entry: Entry, params: dict[str, object], item: Item) -> None:
    job = entry.job
    entry.sampling = job.sampling_of(item.values)
    entry.num_samples = job.num_samples
    if params is not job.params or entry.sampling.temperature != job.sampling.temperature:
        entry.num_samples = resolve_samples(job.kind, params, entry.sampling)


def _fields(job: Job, item: Item) -> dict[str, object]:
    known = (*job.kind.fields, *job.kind.optional_fields)
    return {name: item.values[name] for name in known if name in item.values}


def _language_entries(job: Job, item: Item, seen: SeenEntries) -> Iterator[Entry]:
    try:
        params = job.params_of(item.values.get("params"))
        languages = resolve_languages(job.kind, params, item.values.get("target_lang"))
    except InvalidValueError as error:
        item.problem = item.problem or str(error)
        yield _entry(job, item, seen)
        return
    for language in languages:
        yield _entry(job, item, seen, language, target_lang=language)


def _group_entries(job: Job, seen: SeenEntries) -> Iterator[Entry]:
    """An unusable row fails by itself, and its group is flagged incomplete."""
    groups: dict[str, list[Item]] = {}
    incomplete: set[str] = set()
    bad: list[Entry] = []
    for item in job.source:
        value = item.item_id if job.group_by in ("", "id") else item.values.get(job.group_by)
        row = _started(job, item, seen)
        if row.code is None:
            groups.setdefault(canonical_text(value), []).append(item)
            continue
        bad.append(row)
        if job.group_by and value is not None:
            incomplete.add(canonical_text(value))
    used: set[tuple[str, str]] = set()
    for group, items in groups.items():
        flags = (INCOMPLETE_GROUP,) if group in incomplete else ()
        used.add((group, ""))
        yield _group_entry(job, group, items, flags)
    for row in bad:
        while (row.item_id, row.variant) in used:  # a row's id may equal a group's value
            row.variant += "#row"
        used.add((row.item_id, row.variant))
        yield row


def _group_entry(job: Job, group: str, items: list[Item], flags: tuple[str, ...]) -> Entry:
    entry = Entry(job, group, flags=flags)
    try:
        params = job.params_of(items[0].values.get("params"))
        _set_sampling(entry, params, items[0])
    except InvalidValueError as error:
        return entry.fail(FailureCode.INVALID_INPUT, f"{items[0].where}: {error}")
    fields = [_fields(job, item) for item in items]
    entry.variables = {"items": fields, "params": params}
    return entry
