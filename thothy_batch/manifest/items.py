"""Streams input rows as items, checks the input before the run, and isolates bad rows."""

from collections.abc import Iterator
from itertools import islice, repeat
from pathlib import Path
from typing import Any

from thothy_batch.errors import ManifestError, Problem
from thothy_batch.manifest.columns import read_cells
from thothy_batch.manifest.data_file import DataFile, label_of
from thothy_batch.manifest.fields import (
    RAW_FIELDS,
    FieldPlan,
    WantedField,
    mapping_problems,
    plan_fields,
)
from thothy_batch.manifest.file_search import find_files
from thothy_batch.manifest.inputs import FileInput, JobRowsInput, SqlInput
from thothy_batch.manifest.sections import JobSettings
from thothy_batch.manifest.sql_input import SqlRows
from thothy_batch.manifest.tables import FileTable, JobTable, SqlTable, Table
from thothy_batch.records import Item


def open_items(
    job: JobSettings,
    base: Path,
    *,
    fields: set[str],
    optional: set[str] | None = None,
    limit: int | None = None,
    raw: bool = False,
    group_by: str = "",
) -> "ItemSource":
    """Prepare the items of a job; nothing is read yet.

    `fields` and `optional` are our names (`text`, `target_lang`, a name for params.group_by, ...);
    `id` is always read. `raw`: each row has a `prompt` or `prompt_token_ids`, whichever column
    exists (with both: the ids if a row has them). Rows of a Parquet job manifest also have
    `params`, `priority`, `max_tokens` and `target_lang`. `limit`: read only the first rows.
    `group_by`: the field whose values could all be ids.
    """
    plan = plan_fields(job, set(fields), set(optional or ()), raw, group_by)
    problems = mapping_problems(job, plan)
    tables: list[Table] = []
    if isinstance(job.input, FileInput):
        found = find_files(job.input.patterns, base)
        tables = [FileTable(file) for file in found.files]
        problems += [
            p if p.path else job.problem("input", p.message, p.hint) for p in found.problems
        ]
    elif isinstance(job.input, SqlInput):
        where = job.problem("input.sql", "")
        tables = [SqlTable(SqlRows(job.input.sql, base, where, limit), "SQL")]
    else:
        assert isinstance(job.input, JobRowsInput)
        tables = _job_tables(job.name, job.input, base)
    return ItemSource(plan, tables, problems, limit)


class ItemSource:
    """The items of one job; each iteration reads the input again.

    An item's values hold its fields by our names, without null optional fields and without the
    fields that its `problem` is about. Texts are str, `prompt_token_ids` array("i"), `params` dict.
    Iteration raises ManifestError at a damaged file.
    """

    def __init__(
        self,
        plan: FieldPlan,
        tables: list[Table],
        problems: list[Problem],
        limit: int | None,
    ) -> None:
        self._plan = plan
        self._tables = tables
        self._problems = problems
        self._limit = limit
        self._num_read: int | None = None

    def check(self) -> list[Problem]:
        """Return the problems of the whole input: missing files or columns, wrong types."""
        found = list(self._problems)
        more: dict[str, int] = {}
        firsts: dict[str, Problem] = {}
        for table in self._tables:
            for problem in self._table_problems(table):
                if problem.message in firsts:
                    more[problem.message] = more.get(problem.message, 0) + 1
                firsts.setdefault(problem.message, problem)
        for message, problem in firsts.items():
            if message in more:
                said = f"{message}; the same in {more[message]} more of the job's files"
                problem = Problem(said, problem.path, problem.line, problem.hint)
            found.append(problem)
        return found

    @property
    def num_files(self) -> int | None:
        """The number of files that are read; None where SQL does not name them."""
        nums = [table.num_files for table in self._tables]
        return None if None in nums else sum(num for num in nums if num is not None)

    @property
    def notes(self) -> list[str]:
        """Sentences on the input that a user should read; complete once it was checked."""
        return [note for table in self._tables for note in table.notes]

    def num_rows(self) -> int | None:
        """Return the number of items from the files' footers, or as the last pass counted them.

        None for SQL and job files that were not read yet.
        """
        total = 0
        for table in self._tables:
            num_rows = table.num_rows()
            if num_rows is None:
                return self._num_read
            total += num_rows
        return total if self._limit is None else min(total, self._limit)

    def __iter__(self) -> Iterator[Item]:
        num = 0
        for item in islice(self._all_items(), self._limit):
            yield item
            num += 1
        self._num_read = num

    def _all_items(self) -> Iterator[Item]:
        row = 0
        for table in self._tables:
            for item in self._items(table, row):
                yield item
                row += 1

    def _table_problems(self, table: Table) -> list[Problem]:
        try:
            return self._plan.resolve(table.label, table.schema(), table.hive)[1]
        except ManifestError as error:
            return error.problems

    def _items(self, table: Table, row: int) -> Iterator[Item]:
        schema = table.schema()
        fields, problems = self._plan.resolve(table.label, schema, table.hive)
        if problems:
            raise ManifestError(problems)
        columns = list(dict.fromkeys(f.column for f in fields if f.column in schema.names))
        for numbers, batch in table.batches(columns):
            cells = [_cells(field, table, batch) for field in fields]
            for number, row_cells in zip(numbers, zip(*cells, strict=True), strict=True):
                item = self._item(table.label, number, fields, row_cells)
                item.row = row
                row += 1
                yield item

    def _item(
        self, label: str, number: int, fields: list[WantedField], cells: tuple[Any, ...]
    ) -> Item:
        item = Item(0, f"{label} row {number}", "")
        for field, cell in zip(fields, cells, strict=True):
            problem = field.problem_of(cell)
            if problem:
                item.problem = item.problem or problem
            elif field.name == "id":
                item.item_id = cell
            elif cell is not None:
                item.values[field.name] = cell
        if not item.item_id:
            item.item_id = f"row {number} of {label}"
        if self._plan.raw and not item.problem:
            self._choose_prompt(item)
        return item

    def _choose_prompt(self, item: Item) -> None:
        ids, text = RAW_FIELDS[1], RAW_FIELDS[0]
        if ids in item.values:
            item.values.pop(text, None)
        elif text not in item.values:
            item.problem = "the prompt is null"


def _cells(field: WantedField, table: Table, batch: Any) -> Any:
    if field.column in batch.schema.names:
        return read_cells(batch.column(field.column), field.use)
    return list(repeat(table.hive[field.column], batch.num_rows))


def _job_tables(job: str, rows: JobRowsInput, base: Path) -> list[Table]:
    tables: list[Table] = []
    for name, groups, state in zip(rows.parquet, rows.row_groups, rows.states, strict=True):
        if groups:
            path = Path(name)
            file = DataFile(path, label_of(path, base), state=state)
            tables.append(JobTable(file, job, groups))
    return tables
