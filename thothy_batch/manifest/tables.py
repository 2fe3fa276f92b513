"""Tables of rows: a Parquet file, one job's rows in a job manifest, or a SQL result."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from thothy_batch.manifest.columns import Use, read_cells
from thothy_batch.manifest.data_file import DataFile
from thothy_batch.manifest.files import read_batches, reading
from thothy_batch.manifest.sql_input import SqlRows

# Row numbers (from 1, within the table) and the record batch of these rows.
NumberedBatch = tuple[Sequence[int], Any]


class Table(Protocol):
    """Rows with columns. All methods raise ManifestError if the table cannot be read."""

    label: str  # for messages
    hive: Mapping[str, str | None]  # columns with one value for every row

    @property
    def num_files(self) -> int | None:
        """The number of files that the rows are read from, if known."""

    @property
    def notes(self) -> Sequence[str]:
        """Sentences on the rows that a user should read; complete once the schema was read."""

    def schema(self) -> Any:
        """The Arrow schema."""

    def num_rows(self) -> int | None:
        """Return the number of rows, if known without reading them; else None."""

    def batches(self, columns: Sequence[str]) -> Iterator[NumberedBatch]:
        """Stream the rows with at least these columns, the id's first."""


class FileTable:
    """All rows of a Parquet file."""

    num_files = 1
    notes: Sequence[str] = ()

    def __init__(self, file: DataFile) -> None:
        self.label = file.label
        self.hive: Mapping[str, str | None] = file.hive
        self._file = file

    def schema(self) -> Any:
        with reading(self._file) as parquet:
            return parquet.schema_arrow

    def num_rows(self) -> int | None:
        with reading(self._file) as parquet:
            return int(parquet.metadata.num_rows)

    def batches(self, columns: Sequence[str]) -> Iterator[NumberedBatch]:
        row = 1
        with reading(self._file) as parquet:
            for batch in read_batches(parquet, columns):
                yield range(row, row + batch.num_rows), batch
                row += batch.num_rows


class JobTable:
    """The rows of one job in a Parquet job manifest."""

    num_files = 1
    notes: Sequence[str] = ()

    def __init__(self, file: DataFile, job: str, row_groups: Sequence[int]) -> None:
        self.label = file.label
        self.hive: Mapping[str, str | None] = {}
        self._file = file
        self._job = job
        self._row_groups = row_groups

    def schema(self) -> Any:
        with reading(self._file) as parquet:
            return parquet.schema_arrow

    def num_rows(self) -> int | None:
        return None

    def batches(self, columns: Sequence[str]) -> Iterator[NumberedBatch]:
        wanted = sorted({*columns, "job"})
        with reading(self._file) as parquet:
            sizes = [parquet.metadata.row_group(i).num_rows for i in range(parquet.num_row_groups)]
            for group in self._row_groups:
                row = 1 + sum(sizes[:group])
                for batch in read_batches(parquet, wanted, [group]):
                    jobs = read_cells(batch.column("job"), Use.TEXT)
                    mine = [i for i, job in enumerate(jobs) if job == self._job]
                    if mine:
                        rows = batch if len(mine) == len(jobs) else batch.take(mine)
                        yield [row + i for i in mine], rows
                    row += batch.num_rows


class SqlTable:
    """The rows of a SELECT."""

    hive: Mapping[str, str | None] = {}

    def __init__(self, rows: SqlRows, label: str) -> None:
        self.label = label
        self._rows = rows

    def schema(self) -> Any:
        return self._rows.schema()

    @property
    def num_files(self) -> int | None:
        return self._rows.num_files

    @property
    def notes(self) -> Sequence[str]:
        return self._rows.notes

    def num_rows(self) -> int | None:
        return None

    def batches(self, columns: Sequence[str]) -> Iterator[NumberedBatch]:
        row = 1
        for batch in self._rows.batches(columns):
            yield range(row, row + batch.num_rows), batch
            row += batch.num_rows
