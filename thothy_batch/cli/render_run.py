"""Text of a run: its progress as one line, its end."""

import shlex
from collections.abc import Sequence

from rich.console import RenderableType

from thothy_batch.report import Column, FigureTable, Line, count, duration, sanitize
from thothy_batch.runner.monitoring import Snapshot
from thothy_batch.runner.session import RunSummary
from thothy_batch.runner.work import JobDocument

_STATES = {
    "restarting": "the engine is restarting",
    "stalled": "stalled: no step has finished for a long time",
}
_JOB_COLUMNS = (
    *(Column("job", 40), Column("done"), Column("reused"), Column("failed")),
    *(Column("not\nrun"), Column("flagged"), Column("entries")),
)


def progress_line(snapshot: Snapshot) -> str:
    """The figures of a run in one line."""
    failed = sum(job.num_failed for job in snapshot.jobs)
    used = snapshot.blocks_used / snapshot.blocks_total if snapshot.blocks_total else 0.0
    parts = [
        f"{snapshot.num_settled:,} of {snapshot.num_items:,} entries",
        f"{failed:,} failed",
        f"{snapshot.output_tokens_per_s:,.0f} tokens/s",
        f"KV {used:.0%}",
        f"{snapshot.num_running:,} running",
        f"{snapshot.num_waiting:,} waiting",
    ]
    if snapshot.eta_s is not None:
        parts.append(f"about {duration(snapshot.eta_s)} left")
    if snapshot.state != "running":
        parts.append(_STATES.get(snapshot.state, snapshot.state))
    return ", ".join(parts)


def summary_blocks(summary: RunSummary) -> list[RenderableType]:
    """The end of a run; only its messages if it ended before its entries were counted."""
    messages = [Line(sanitize(message, 500)) for message in summary.messages]
    return [*messages, *(_run_blocks(summary) if summary.run_id else [])]


def _run_blocks(summary: RunSummary) -> list[RenderableType]:
    counts = summary.counts
    ending = f"run {summary.run_id} {summary.status}"
    ending += f" ({summary.stop_reason})" if summary.stop_reason else ""
    speed = summary.output_tokens_per_s
    blocks: list[RenderableType] = [
        Line(
            f"{ending}: {count(counts['num_done'])} done, {count(counts['num_reused'])} reused, "
            f"{count(counts['num_failed'])} failed, {count(counts['num_not_run'])} not run, "
            f"of {count(counts['num_items'])} entries"
        ),
        Line(
            f"{count(summary.output_tokens)} tokens generated in {duration(summary.engine_s)} of "
            f"engine time ({duration(summary.wall_s)} in all)"
            + (f", {speed:,.1f} tokens/s" if speed else "")
        ),
    ]
    if len(summary.jobs) > 1:
        blocks.append(job_table(summary.jobs))
    blocks.append(Line(f"store: {summary.store}", is_verbatim=True))
    if counts["num_failed"] or counts["num_flagged"]:
        command = f"thothy-batch report {shlex.quote(str(summary.store))}"
        blocks.append(Line(f"failures and flags: {command}", is_verbatim=True))
    return blocks


def job_table(jobs: Sequence[JobDocument]) -> FigureTable:
    """The entries of each job by how they ended so far."""
    rows = [
        [
            sanitize(job["name"], 40),
            count(job["num_done"]),
            count(job["num_reused"]),
            count(job["num_failed"]),
            count(job["num_not_run"]),
            count(job["num_flagged"]),
            count(job["num_items"]),
        ]
        for job in jobs
    ]
    return FigureTable(_JOB_COLUMNS, rows)
