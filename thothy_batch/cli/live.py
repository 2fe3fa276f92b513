"""The live display on a terminal: one bar a job and the engine's figures."""

from dataclasses import dataclass
from typing import Self

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from thothy_batch.cli.display import Phase
from thothy_batch.cli.render_run import progress_line
from thothy_batch.report import escape_controls, sanitize
from thothy_batch.runner.monitoring import Snapshot
from thothy_batch.runner.work import JobCount

_MAX_JOBS = 16
# Cells. A bar shrinks first, then the name is cut; the counts stay whole.
_BAR_WIDTH, _MIN_BAR_WIDTH = 30, 10
_NAME_WIDTH = 40


class LiveDisplay:
    """Redraws four times a second; notes stay above it."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._phase = Phase()
        self._snapshot: Snapshot | None = None
        # Last, because it draws at once.
        self._live = Live(
            console=self._console, refresh_per_second=4, transient=True, get_renderable=self._draw
        )

    def __enter__(self) -> Self:
        try:
            self._live.start()
        except BaseException:  # a signal after the cursor was hidden
            self._live.stop()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def phase(self, text: str) -> None:
        self._phase.begin_or_advance(text)

    def note(self, text: str) -> None:
        self._console.print(Text(escape_controls(text)))

    def progress(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def close(self) -> None:
        self._live.stop()

    def _draw(self) -> RenderableType:
        snapshot = self._snapshot
        if snapshot is None or self._phase.text != "computing":
            return Text(sanitize(self._phase.line()), style="dim")
        return Group(JobBars(snapshot.jobs), Text(progress_line(snapshot)))


@dataclass(frozen=True, slots=True)
class JobBars:
    """Name, bar and counts of each job, within the width of the terminal."""

    jobs: tuple[JobCount, ...]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        shown = self.jobs[:_MAX_JOBS]
        counts = [_counts(job) for job in shown]
        room = options.max_width - max(map(cell_len, counts), default=0) - 2
        name_width = min(_NAME_WIDTH, max(1, room - _MIN_BAR_WIDTH))
        names = [Text(sanitize(job.name)) for job in shown]
        widest = min(name_width, max((name.cell_len for name in names), default=0))
        bar_width = max(_MIN_BAR_WIDTH, min(_BAR_WIDTH, room - widest))
        table = Table.grid(padding=(0, 1, 0, 0))
        table.add_column(no_wrap=True, overflow="ellipsis", max_width=name_width)
        table.add_column()
        table.add_column(no_wrap=True, overflow="ellipsis")
        for job, name, text in zip(shown, names, counts, strict=True):
            table.add_row(name, _bar(job, bar_width), Text(text))
        yield table
        if len(self.jobs) > _MAX_JOBS:
            yield Text(f"and {len(self.jobs) - _MAX_JOBS} more jobs")


def _bar(job: JobCount, width: int) -> ProgressBar:
    return ProgressBar(
        total=max(job.num_items, 1),
        completed=job.num_settled if job.num_items else 1,
        width=width,
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
