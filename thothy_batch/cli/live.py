"""The live display on a terminal: a bar per job and the engine's figures."""

import time
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from thothy_batch.cli.output import shown
from thothy_batch.cli.render_run import duration, progress_line
from thothy_batch.report.formatting import sanitize
from thothy_batch.runner.monitoring.progress import Snapshot
from thothy_batch.runner.work.counts import JobCount

_MAX_JOBS = 16
_BAR_WIDTH = 30
_NAME_WIDTH = 40


class LiveDisplay:
    """Redraws four times a second; notes stay above it."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._phase = ""
        self._snapshot: Snapshot | None = None
        self._began = time.monotonic()
        # Last: it draws at once.
        self._live = Live(
            console=self._console, refresh_per_second=4, transient=True, get_renderable=self._draw
        )

    def __enter__(self) -> Self:
        try:
            self._live.start()
        except BaseException:  # a signal, when the cursor was hidden already
            self._live.stop()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def phase(self, text: str) -> None:
        self._phase = text

    def note(self, text: str) -> None:
        self._console.print(Text(shown(text)))

    def progress(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def close(self) -> None:
        self._live.stop()

    def _draw(self) -> RenderableType:
        snapshot = self._snapshot
        if snapshot is None or self._phase != "computing":
            waited = duration(time.monotonic() - self._began)
            return Text(f"{sanitize(self._phase)} ({waited})", style="dim")
        return Group(_bars(snapshot), Text(progress_line(snapshot)))


def _bars(snapshot: Snapshot) -> Table:
    table = Table.grid(padding=(0, 1))
    for job in snapshot.jobs[:_MAX_JOBS]:
        table.add_row(Text(sanitize(job.name, _NAME_WIDTH)), _bar(job), Text(_counts(job)))
    if len(snapshot.jobs) > _MAX_JOBS:
        table.add_row(Text(f"and {len(snapshot.jobs) - _MAX_JOBS} more jobs"), "", "")
    return table


def _bar(job: JobCount) -> ProgressBar:
    return ProgressBar(
        total=max(job.num_items, 1),
        completed=job.num_settled if job.num_items else 1,
        width=_BAR_WIDTH,
    )


def _counts(job: JobCount) -> str:
    parts = [f"{job.num_settled:,}/{job.num_items:,}"]
    if job.num_reused:
        parts.append(f"{job.num_reused:,} reused")
    if job.num_failed:
        parts.append(f"{job.num_failed:,} failed")
    if job.stopped:
        parts.append("stopped")
    return ", ".join(parts)
