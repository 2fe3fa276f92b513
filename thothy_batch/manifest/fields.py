"""Maps a job's fields (our names) to the columns of a table (the user's names)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from thothy_batch.choices import MAX_COUNT
from thothy_batch.errors import Problem
from thothy_batch.manifest.columns import Bad, Use, fits
from thothy_batch.manifest.inputs import JobRowsInput
from thothy_batch.manifest.sections import JobSettings
from thothy_batch.yaml_source import did_you_mean

RAW_FIELDS = ("prompt", "prompt_token_ids")
_ROW_FIELDS = ("params", "priority", "max_tokens", "target_lang")  # of a Parquet job manifest
# These override the job's sampling where `columns` names them: a column `temperature` may be one
# of the weather.
ROW_SAMPLING = ("seed", "temperature")
_USES = {
    "id": Use.ID,
    "text": Use.TEXT,
    "prompt": Use.TEXT,
    "target_lang": Use.TEXT,
    "max_tokens": Use.COUNT,
    "seed": Use.COUNT,
    "temperature": Use.NUMBER,
    "params": Use.PARAMS,
    "prompt_token_ids": Use.TOKEN_IDS,
}
_OF_FOLDERS = (Use.ID, Use.GROUP, Use.TEXT, Use.ANY)  # the name of a folder is text
_BOUNDS: dict[str, tuple[int | None, int | None]] = {
    "max_tokens": (1, MAX_COUNT),
    "priority": (0, 9),
}


@dataclass(frozen=True, slots=True)
class WantedField:
    """A field of a job's items and the column that fills it."""

    name: str
    column: str
    use: Use
    required: bool

    def problem_of(self, cell: Any) -> str:
        """Return why a cell is unusable, or "". Null is a problem only in a required field."""
        if isinstance(cell, Bad):
            return f"{self.column} {cell.why}"
        if cell is None:
            return f"{self.column} is null" if self.required else ""
        if isinstance(cell, str) and self._is_empty(cell):
            return f"{self.column} is empty"
        if self.use is Use.TOKEN_IDS and not len(cell):
            return f"{self.column} is empty"
        return self._out_of_bounds(cell) if self.use is Use.COUNT else ""

    def _is_empty(self, text: str) -> bool:
        if self.name == "prompt":  # raw: used unchanged, white space included
            return text == ""
        return (self.required or self.name == "target_lang") and not text.strip()

    def _out_of_bounds(self, count: int) -> str:
        low, high = _BOUNDS.get(self.name, (None, None))
        if low is not None and count < low:
            return f"{self.column} must be at least {low}, found {count}"
        if high is not None and count > high:
            return f"{self.column} must be at most {high}, found {count}"
        return ""


@dataclass(frozen=True, slots=True)
class FieldPlan:
    """The fields of a job. One of the raw fields suffices."""

    fields: tuple[WantedField, ...]  # the id comes first
    raw: bool = False
    text_is_prompt: bool = False  # a Parquet job manifest holds raw prompts in `text`

    def resolve(
        self, label: str, schema: Any, hive: Mapping[str, object]
    ) -> tuple[list[WantedField], list[Problem]]:
        """Return the fields that a table fills, and problems of missing or mistyped columns."""
        names = [*schema.names, *(key for key in hive if key not in schema.names)]
        present: list[WantedField] = []
        problems: list[Problem] = []
        for field in self.fields:
            message = self._misfit(field, schema, hive)
            if message:
                problems.append(Problem(message, label))
            elif field.column in names:
                present.append(field)
            elif field.required:
                problems.append(_missing(repr(field.column), field.column, names, label))
        if self.raw and not any(field.name in RAW_FIELDS for field in present):
            problems += self._use_text(present, schema, names, label)
        return present, problems

    def _use_text(
        self, present: list[WantedField], schema: Any, names: list[str], label: str
    ) -> list[Problem]:
        wanted = [field for field in self.fields if field.name in RAW_FIELDS]
        if self.text_is_prompt and "text" in schema.names:
            field = replace(wanted[0], column="text", required=True)
            message = self._misfit(field, schema, {})
            present.append(field)
            return [Problem(message, label)] if message else []
        if any(field.column in names for field in wanted):
            return []  # present but mistyped, which is already reported
        said = " or ".join(repr(field.column) for field in wanted)
        return [_missing(said, wanted[0].column, names, label)]

    @staticmethod
    def _misfit(field: WantedField, schema: Any, hive: Mapping[str, object]) -> str:
        count = schema.names.count(field.column)
        if count > 1:
            return f"column {field.column!r} stands {count} times"
        if count == 1:
            found = schema.field(field.column).type
            right = fits(found, field.use)
        else:
            found = "text, from the name of a folder"
            right = field.column not in hive or field.use in _OF_FOLDERS
        if right:
            return ""
        what = f"column {field.column!r} must be {field.use}, found {found}"
        is_bytes = count == 1 and fits(found, Use.TEXT)
        return f"{what} (in an SQL input, decode() makes text of bytes)" if is_bytes else what


def plan_fields(
    job: JobSettings, required: set[str], optional: set[str], raw: bool, group_by: str = ""
) -> FieldPlan:
    """Return the fields of a job: `id`, the kind's required ones and its optional ones."""
    in_job_file = isinstance(job.input, JobRowsInput)
    names = {"id": True} | {name: False for name in sorted(optional)}
    names |= {name: True for name in sorted(required)}
    if in_job_file:
        names = {name: False for name in _ROW_FIELDS} | names
    if raw:
        names |= {name: False for name in RAW_FIELDS}
    fields = []
    for name, is_required in sorted(names.items(), key=lambda pair: pair[0] != "id"):
        use = _USES.get(name, Use.ANY)
        if name == "priority" and in_job_file:
            use = Use.COUNT
        elif name == group_by and use is Use.ANY:
            use = Use.GROUP
        fields.append(WantedField(name, job.columns.get(name, name), use, is_required))
    return FieldPlan(tuple(fields), raw, raw and in_job_file)


def mapping_problems(job: JobSettings, plan: FieldPlan) -> list[Problem]:
    """Return problems of names in `columns` that the job's kind does not know."""
    known = [field.name for field in plan.fields]
    return [
        job.problem(
            f"columns.{name}",
            f"columns names {name!r}, which kind {job.kind!r} does not use",
            did_you_mean(name, known),
        )
        for name in job.columns
        if name not in known
    ]


def _missing(said: str, column: str, names: list[str], label: str) -> Problem:
    hint = did_you_mean(column, names)
    if hint and not hint.startswith("did"):
        hint = f"columns there: {', '.join(names)}; `columns:` maps our names to theirs"
    return Problem(f"column {said} is missing", label, hint=hint)
