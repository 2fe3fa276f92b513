"""Runs on the fake engine: rows and a manifest in a folder, computed in this process."""

from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from thothy_batch.engine.protocol import EngineClient
from thothy_batch.engine.start import start_in_process
from thothy_batch.manifest.settings import Overrides
from thothy_batch.records import EngineSpec
from thothy_batch.runner.commands.run import run_manifest
from thothy_batch.runner.monitoring.progress import Silent
from thothy_batch.runner.session.options import RunOptions
from thothy_batch.runner.session.summary import RunSummary


def start_here(
    spec: EngineSpec, *, log_path: Path | None = None, on_phase: Any = None
) -> EngineClient:
    return start_in_process(spec)


class Notes(Silent):
    """Keeps the notes for the user."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def note(self, text: str) -> None:
        self.texts.append(text)


class Project:
    """One folder with its manifest, inputs and store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = folder / "artifacts.duckdb"
        self.manifest = folder / "manifest.yaml"
        self.notes = Notes()

    def rows(self, name: str, **columns: Any) -> None:
        pq.write_table(pa.table(columns), self.folder / name)

    def jobs(self, *jobs: str, model: str = "builtin:fake", more: str = "") -> None:
        """Write the manifest. Each job is the inside of a YAML flow mapping."""
        lines = "\n".join(f"  - {{{job}}}" for job in jobs)
        self.manifest.write_text(f'model: {{id: "{model}"}}\n{more}\njobs:\n{lines}\n')

    def options(self, **more: Any) -> RunOptions:
        overrides = {k: more.pop(k) for k in ("jobs", "limit", "variables") if k in more}
        more.setdefault("start_engine", start_here)
        return RunOptions(self.manifest, Overrides(**overrides), **more)

    def run(self, **more: Any) -> RunSummary:
        summary = run_manifest(self.options(**more), self.notes)
        self.check_counts(summary)
        return summary

    def query(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        with duckdb.connect(str(self.store), read_only=True) as connection:
            return connection.execute(sql, list(values)).fetchall()

    def check_counts(self, summary: RunSummary) -> None:
        """Check that runs, job_stats, run_items and the summary agree and add up."""
        if not summary.published or not summary.run_id:
            return
        names = ("num_items", "num_done", "num_failed", "num_reused", "num_not_run")
        (run,) = self.query(
            f"select {', '.join(names)}, output_tokens, exit_code from runs where run_id = ?",
            summary.run_id,
        )
        (jobs,) = self.query(
            f"select {', '.join(f'sum({n})::bigint' for n in names)} from job_stats "
            "where run_id = ?",
            summary.run_id,
        )
        items = dict(
            self.query(
                "select status, count(*) from run_items where run_id = ? group by status",
                summary.run_id,
            )
        )
        assert run[:5] == jobs
        assert run[0] == sum(run[1:5]) == sum(items.values())
        assert run[:5] == tuple(summary.counts[name] for name in names)
        assert tuple(items.get(s, 0) for s in ("done", "failed", "reused", "not_run")) == run[1:5]
        assert run[5:] == (summary.output_tokens, summary.exit_code)
        assert not self.query(
            "select 1 from run_items group by run_id, job, item_id, variant having count(*) > 1"
        )


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


@pytest.fixture
def raw_project(project: Project) -> Project:
    """Twelve raw prompts, all different."""
    project.rows("rows.parquet", id=list(range(12)), prompt=[f"prompt {i}" for i in range(12)])
    project.jobs("name: j, kind: raw, input: rows.parquet, sampling: {max_tokens: 16}")
    return project
