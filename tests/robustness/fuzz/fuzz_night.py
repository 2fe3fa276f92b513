"""Nights on the fake engine, in folders of their own: opened and rendered, or run to the end."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
from bounds import check_sentences, within

from thothy_batch.engine.protocol import EngineClient
from thothy_batch.engine.start import start_in_process
from thothy_batch.errors import ThothyError
from thothy_batch.manifest.settings import Overrides
from thothy_batch.records import EngineSpec
from thothy_batch.runner.commands.run import run_manifest
from thothy_batch.runner.entries.entry import Entry
from thothy_batch.runner.monitoring.progress import Silent
from thothy_batch.runner.planning.pipeline import read_entries
from thothy_batch.runner.session.options import RunOptions
from thothy_batch.runner.session.setup import prepare_run

SECONDS = 20.0


@contextmanager
def fresh_folder(template: Path | None = None) -> Iterator[Path]:
    """A folder for one example, with what the template holds."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    try:
        if template is not None:
            shutil.copytree(template, folder, dirs_exist_ok=True, symlinks=True)
        yield folder
    finally:
        shutil.rmtree(folder)


def prepared(manifest: Path) -> list[Entry] | ThothyError:
    """The entries of a night with their prompts, or the error, whose sentences are checked."""
    options = RunOptions(manifest, Overrides(model="builtin:fake"))
    with within(SECONDS):
        try:
            run = prepare_run(options, Silent(), "fuzz")
            entries = list(read_entries(run.inputs, run.observer))
        except ThothyError as error:
            check_sentences(error)
            return error
    for entry in entries:
        _check_entry(entry)
    assert len({entry.key for entry in entries}) == len(entries)
    return entries


def _check_entry(entry: Entry) -> None:
    """It has a prompt and a key, or says in a sentence why not; its names are text."""
    for name in (entry.item_id, entry.variant, entry.message):
        name.encode()
    assert entry.item_id
    if entry.code is None:
        assert len(entry.prompt_token_ids)
        assert entry.request_key
    else:
        assert entry.message.strip()


def run_to_end(manifest: Path) -> dict[str, int] | ThothyError:
    """Runs a night; how many of its entries ended how, or the error."""
    options = RunOptions(manifest, Overrides(model="builtin:fake"), start_engine=_start_here)
    with within(SECONDS):
        try:
            run = run_manifest(options, Silent())
        except ThothyError as error:
            check_sentences(error)
            return error
    assert run.exit_code in (0, 1), run.messages
    counts = {name: run.counts[f"num_{name}"] for name in ("done", "failed", "reused", "not_run")}
    assert (run.exit_code == 1) == (counts["failed"] > 0)
    _check_counts(run.store, run.run_id, counts)
    return counts


def _start_here(
    spec: EngineSpec, *, log_path: Path | None = None, on_phase: Any = None
) -> EngineClient:
    return start_in_process(spec)


def _check_counts(store: Path, run_id: str, counts: dict[str, int]) -> None:
    """The store says the same, each entry once; each failure has its sentence."""
    with duckdb.connect(str(store), read_only=True) as connection:
        query = "SELECT status, count(*), count(DISTINCT (job, item_id, variant)) FROM run_items "
        found = connection.execute(query + "WHERE run_id = ? GROUP BY 1", [run_id]).fetchall()
        assert {status: num for status, num, _ in found} == {n: c for n, c in counts.items() if c}
        assert all(num == distinct for _, num, distinct in found)
        query = "SELECT message FROM failures WHERE run_id = ?"
        messages = [row[0] for row in connection.execute(query, [run_id]).fetchall()]
    assert len(messages) == counts["failed"]
    assert all(message.strip() for message in messages)
