"""A hostile folder's nights, and every way to look at what they left."""

import contextlib
import io
from pathlib import Path
from typing import Any, Self

from hostile_checks import check_counts, check_exports, check_json, check_terminal
from hostile_commands import Said, command, piped
from hostile_engine import HostileEngine
from hostile_files import HostileFolder
from hostile_page import check_page, check_text
from rich.console import Console

from thothy_batch.cli.display import LineDisplay
from thothy_batch.cli.live import LiveDisplay
from thothy_batch.cli.output import print_blocks
from thothy_batch.cli.render_run import summary_blocks
from thothy_batch.engine.protocol import EngineClient
from thothy_batch.engine.start import start_in_process
from thothy_batch.manifest.settings import Overrides
from thothy_batch.records import EngineSpec
from thothy_batch.report import report_blocks, to_text
from thothy_batch.runner.commands.report import report_document
from thothy_batch.runner.commands.run import run_manifest
from thothy_batch.runner.monitoring.progress import Snapshot
from thothy_batch.runner.session.options import RunOptions

GOOD = (0, 1)
FORMATS = ("parquet", "jsonl", "csv")


class Screen(LineDisplay):
    """A log with a line for everything, beside a live display on a terminal."""

    def __init__(self) -> None:
        super().__init__(every_s=0.0)
        self.log, self.terminal = io.StringIO(), io.StringIO()
        self._live = LiveDisplay(Console(file=self.terminal, force_terminal=True, width=120))

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def close(self) -> None:
        self._live.close()

    def phase(self, text: str) -> None:
        with contextlib.redirect_stderr(self.log):
            super().phase(text)
        self._live.phase(text)

    def note(self, text: str) -> None:
        with contextlib.redirect_stderr(self.log):
            super().note(text)
        self._live.note(text)

    def progress(self, snapshot: Snapshot) -> None:
        with contextlib.redirect_stderr(self.log):
            super().progress(snapshot)
        self._live.progress(snapshot)


def run_with_hostile_engine(
    folder: HostileFolder,
) -> tuple[HostileEngine | None, dict[str, Any]]:
    """A night in this process whose model answers with hostile texts; the screen is checked.

    The engine is None where there was nothing to compute.
    """
    engines: list[HostileEngine] = []

    def start(
        spec: EngineSpec, *, log_path: Path | None = None, on_phase: Any = None
    ) -> EngineClient:
        engines.append(HostileEngine(start_in_process(spec)))
        return engines[0]

    screen = Screen()
    options = RunOptions(folder.manifest, Overrides(), start_engine=start)
    with screen:
        summary = run_manifest(options, screen)
    assert summary.exit_code in GOOD, summary.error
    with contextlib.redirect_stdout(screen.terminal):
        print_blocks(summary_blocks(summary))
    check_terminal(screen.log.getvalue())
    check_terminal(screen.terminal.getvalue(), drawn=True)
    return (engines[0] if engines else None), summary.as_json()


def check_run(said: Said, *, drawn: bool = False) -> None:
    """A run that came to its end and left the terminal alone."""
    assert said.code in GOOD, said.err or said.out
    check_terminal(said.out, drawn=drawn)
    check_terminal(said.err)


def check_plan(*words: object) -> dict[str, Any]:
    """`plan` as text and as JSON; returns the document."""
    text, document = command("plan", *words, "--quiet"), command("plan", *words, "--json", "-q")
    for said in (text, document):
        assert said.code == 0, said.err
        check_terminal(said.out)
        check_terminal(said.err)
    found: dict[str, Any] = check_json(document.out)
    return found


def check_morning(store: Path, folder: Path) -> dict[str, dict[str, int]]:
    """Everything that looks at a store, for all of its runs; returns its counts."""
    found = check_counts(store)
    for run_id in found:
        data = report_document(store, run_id)
        _check_report(store, run_id, data, folder)
    check_json(_good("status", store, "--json").out)
    _good("status", store)
    check_exports(store, {form: _export(store, folder, form) for form in FORMATS})
    return found


def _check_report(store: Path, run_id: str, data: dict[str, Any], folder: Path) -> None:
    _good("report", store, "--run", run_id)
    text = piped("report", store, "--run", run_id).out
    assert text == to_text(report_blocks(data))
    check_text(text, data)
    assert check_json(_good("report", store, "--run", run_id, "--json").out) == data
    page = folder / f"report \x1bc\u202e {run_id}.html"
    _good("report", store, "--run", run_id, "--html", page)
    check_page(page.read_text(encoding="utf-8"), data)


def _export(store: Path, folder: Path, form: str) -> Path:
    path = folder / f"export \x1bc\u202e<b>'.{form}"
    _good("export", store, "-o", path)
    return path


def _good(*words: object) -> Said:
    said = command(*words)
    assert said.code == 0, said.err
    check_terminal(said.out)
    check_terminal(said.err)
    return said
