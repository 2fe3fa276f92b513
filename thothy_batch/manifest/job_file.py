"""Groups the rows of Parquet job manifests into jobs."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from thothy_batch.errors import ManifestError, Problem
from thothy_batch.manifest.columns import Bad, Use, fits, read_cells
from thothy_batch.manifest.data_file import DataFile
from thothy_batch.manifest.file_search import find_files
from thothy_batch.manifest.files import read_batches, reading
from thothy_batch.manifest.inputs import JobRowsInput
from thothy_batch.manifest.sections import JobSettings
from thothy_batch.manifest.values import name_fault
from thothy_batch.yaml_source import did_you_mean

_MAGIC = b"PAR1"
_COLUMNS = {"job": Use.TEXT, "kind": Use.TEXT, "priority": Use.COUNT}
_MAX_PROBLEMS = 10  # per file; a wrong column would otherwise report every row


@dataclass(slots=True)
class _Job:
    kind: str
    first_row: str
    priority: int | None = None
    row_groups: dict[int, list[int]] = field(default_factory=dict)  # file index -> row groups


def is_parquet(path: Path) -> bool:
    """True if a manifest is a Parquet file, by its name or its first bytes."""
    if path.suffix == ".parquet":
        return True
    try:
        with path.open("rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False


def discover_jobs(
    patterns: list[str], manifest: Path, line: int | None
) -> tuple[list[JobSettings], list[Problem]]:
    """Return the jobs of Parquet job manifests by first appearance, in one streamed pass.

    A job's priority is the highest of its rows. `line`: the manifest's line that names the files.
    """
    found = find_files(patterns, manifest.parent)
    files = found.files
    problems = [p if p.path else replace(p, path=str(manifest), line=line) for p in found.problems]
    jobs: dict[str, _Job] = {}
    for index, file in enumerate(files):
        try:
            problems += _scan(file, index, jobs)
        except ManifestError as error:
            problems += error.problems
    if not jobs and not problems:
        problems = [Problem("there is no row, so there is no job", str(manifest), line)]
    settings = []
    for name, job in jobs.items():
        groups = [job.row_groups.get(index, []) for index in range(len(files))]
        paths, states = [str(file.path) for file in files], [file.state for file in files]
        rows = JobRowsInput(parquet=paths, row_groups=groups, states=states)
        priority = 5 if job.priority is None else job.priority
        made = JobSettings(name=name, kind=job.kind, input=rows, priority=priority)
        made.locate(str(manifest), {} if line is None else {"": line})
        settings.append(made)
    return settings, problems


def _scan(file: DataFile, index: int, jobs: dict[str, _Job]) -> list[Problem]:
    with reading(file) as parquet:
        schema = parquet.schema_arrow
        problems = _column_problems(file, schema)
        if problems:
            return problems
        columns = [name for name in _COLUMNS if name in schema.names]
        row = 0
        for group in range(parquet.num_row_groups):
            for batch in read_batches(parquet, columns, [group]):
                place = (index, group)
                problems += _add_rows(file, batch, row, place, jobs)
                row += batch.num_rows
                if len(problems) >= _MAX_PROBLEMS:
                    return problems[:_MAX_PROBLEMS]
    return problems


def _column_problems(file: DataFile, schema: Any) -> list[Problem]:
    problems = []
    for name, use in _COLUMNS.items():
        count = schema.names.count(name)
        if count > 1:
            problems.append(Problem(f"column {name!r} stands {count} times", file.label))
        elif count == 1 and not fits(schema.field(name).type, use):
            found = schema.field(name).type
            problems.append(Problem(f"column {name!r} must be {use}, found {found}", file.label))
        elif count == 0 and name != "priority":
            hint = did_you_mean(name, schema.names)
            problems.append(Problem(f"column {name!r} is missing", file.label, hint=hint))
    return problems


def _add_rows(
    file: DataFile, batch: Any, first_row: int, place: tuple[int, int], jobs: dict[str, _Job]
) -> list[Problem]:
    names = read_cells(batch.column("job"), Use.TEXT)
    kinds = read_cells(batch.column("kind"), Use.TEXT)
    priorities: list[Any] = [None] * len(names)
    if "priority" in batch.schema.names:
        priorities = read_cells(batch.column("priority"), Use.COUNT)
    problems = []
    seen: set[tuple[Any, Any, Any]] = set()
    for offset, cells in enumerate(zip(names, kinds, priorities, strict=True)):
        if cells in seen:
            continue
        seen.add(cells)
        row = f"row {first_row + offset + 1}"
        message = _add_row(cells, f"{row} of {file.label}", place, jobs)
        if message:
            problems.append(Problem(f"{row}: {message}", file.label))
            seen.discard(cells)
    return problems


def _add_row(
    cells: tuple[Any, Any, Any], where: str, place: tuple[int, int], jobs: dict[str, _Job]
) -> str:
    """Record a row's job; return what is wrong with it, or ""."""
    name, kind, priority = cells
    for column, cell in (("job", name), ("kind", kind)):
        fault = name_fault(cell) if isinstance(cell, str) else "is null"
        if isinstance(cell, Bad):
            fault = cell.why
        if fault:
            return f"{column} {fault}"
    job = jobs.setdefault(name, _Job(kind, where))
    if job.kind != kind:
        return (
            f"job {name!r} has kind {kind!r} here and kind {job.kind!r} in {job.first_row}; "
            "a job has one kind"
        )
    index, group = place
    groups = job.row_groups.setdefault(index, [])
    if not groups or groups[-1] != group:
        groups.append(group)
    if isinstance(priority, int) and 0 <= priority <= 9:
        job.priority = max(priority, job.priority or 0)
    return ""
