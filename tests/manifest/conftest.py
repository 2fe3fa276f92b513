"""Small Parquet files and jobs over them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from thothy_batch.manifest.inputs import FileInput, SqlInput
from thothy_batch.manifest.items import ItemSource, open_items
from thothy_batch.manifest.sections import JobSettings


@pytest.fixture(scope="session")
def bad_text() -> Callable[..., Any]:
    """bad_text(b"ok", b"\\xff") is a string column with these bytes, valid UTF-8 or not."""

    def make(*cells: bytes) -> Any:
        raw = pa.array(cells, pa.binary())
        return pa.Array.from_buffers(pa.string(), len(raw), raw.buffers())

    return make


@pytest.fixture
def parquet(tmp_path: Path) -> Callable[..., Path]:
    """parquet("a.parquet", id=[...], text=[...]) writes a file under tmp_path."""

    def write(name: str, row_group_size: int | None = None, **columns: Any) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), path, row_group_size=row_group_size)
        return path

    return write


@pytest.fixture
def source(tmp_path: Path) -> Callable[..., ItemSource]:
    """source("a.parquet", fields={"text"}, columns={...}) opens a job's items under tmp_path."""

    def make(given: Any = "a.parquet", **options: Any) -> ItemSource:
        columns = options.pop("columns", {})
        fields = options.pop("fields", {"text"})
        rows = SqlInput(sql=given["sql"]) if isinstance(given, dict) else None
        job = JobSettings(
            name="j",
            kind="summary",
            input=rows or FileInput.model_validate(given),
            columns=columns,
        )
        job.locate("m.yaml", {"": 2, "input": 4, "input.sql": 5, "columns": 6})
        return open_items(job, tmp_path, fields=fields, **options)

    return make
