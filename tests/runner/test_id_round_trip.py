"""Ids of every type leave as they came: Parquet, store, export in each format."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from input_types import FAILS, REFUSED, arrow_samples, is_writable, write_samples

from thothy_batch.store.queries.export import write_export

READERS: dict[str, Any] = {
    "parquet": lambda path: pq.read_table(path).to_pylist(),
    "jsonl": lambda path: [json.loads(line) for line in path.read_text().splitlines()],
    "csv": lambda path: list(csv.DictReader(io.StringIO(path.read_text()))),
}


@pytest.mark.rest
def test_ids_of_every_type_survive_the_store_and_the_export(project: Any, tmp_path: Path) -> None:
    samples = [sample for sample in arrow_samples() if is_writable(sample)]
    write_samples(project.folder / "rows.parquet", samples)
    ids = {f"j{i}": s.id for i, s in enumerate(samples) if s.id not in (FAILS, REFUSED)}
    project.jobs(
        *(
            f"name: {name}, kind: raw, input: rows.parquet, "
            f"columns: {{id: v{name[1:]}, prompt: row}}, sampling: {{max_tokens: 1}}"
            for name in ids
        )
    )
    run = project.run()
    assert (run.exit_code, run.counts["num_failed"]) == (0, 0)
    for format, read in READERS.items():
        path = tmp_path / f"out.{format}"
        write_export(project.store, job=None, run=None, format=format, output=path)
        assert {row["job"]: row["item_id"] for row in read(path)} == ids, format
