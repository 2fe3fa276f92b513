"""Text of `status`."""

from rich.console import RenderableType

from thothy_batch.cli.render_run import job_table
from thothy_batch.report import Line, clock, count, duration, sanitize
from thothy_batch.runner.monitoring import (
    IdleDocument,
    RunningDocument,
    StatusDocument,
    StatusFileDocument,
)


def status_blocks(status: StatusDocument) -> list[RenderableType]:
    """The state of a store."""
    return _running(status) if status["state"] == "running" else _idle(status)


def _running(status: RunningDocument) -> list[RenderableType]:
    title = (
        f"running: {sanitize(status['run_id'])}, process {status['pid']} on "
        f"{sanitize(status['host'])}, since {clock(status['since'])}"
    )
    progress = status["progress"]
    return [Line(title), *(_progress(progress) if progress else [])]


def _progress(progress: StatusFileDocument) -> list[RenderableType]:
    state = f"{sanitize(progress['state'])}, as of {clock(progress['updated_at'])}"
    if "num_settled" not in progress:
        return [Line(state)]
    figures = (
        f"{count(progress['num_settled'])} of {count(progress.get('num_items'))} entries, "
        f"{progress.get('output_tokens_per_s') or 0:,.0f} tokens/s"
    )
    if (eta_s := progress.get("eta_s")) is not None:
        figures += f", about {duration(eta_s)} left"
    return [Line(state), Line(figures), job_table(progress.get("jobs", []))]


def _idle(status: IdleDocument) -> list[RenderableType]:
    run = status["last_run"]
    if run is None:
        return [Line("no run yet")]
    reason = f" ({sanitize(run['stop_reason'])})" if run.get("stop_reason") else ""
    blocks: list[RenderableType] = [
        Line(
            f"last run {sanitize(run['run_id'])}: {sanitize(run.get('status'))}{reason}, "
            f"{clock(run['started_at'])}"
        ),
        Line(
            f"{count(run.get('num_done'))} done, {count(run.get('num_reused'))} reused, "
            f"{count(run.get('num_failed'))} failed, {count(run.get('num_not_run'))} not run"
        ),
    ]
    if not status["published"]:
        text = (
            "another program has the store open, or its disk is full: some rows are still in the "
            "journal"
        )
        blocks.append(Line(text))
    return blocks
