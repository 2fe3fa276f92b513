"""The report as text, for a terminal or a mail."""

from collections.abc import Sequence

from rich.console import RenderableType

from thothy_batch.report.document import (
    EventRow,
    FailureGroup,
    FlagCount,
    JobRow,
    NightRow,
    ReportDocument,
    RunRow,
)
from thothy_batch.report.formatting import (
    NOTHING,
    change,
    clock,
    count,
    duration,
    job_figures,
    rate,
    run_figures,
    sanitize,
    share,
)
from thothy_batch.report.layout import Column, FigureTable, Line
from thothy_batch.report.phrases import (
    advice,
    compared,
    headline,
    more_events,
    next_step,
    planned,
    prediction,
    roofline,
)

_MAX_FLAGS = 12
_MAX_EVENTS = 10
_JOB_COLUMNS = (
    *(Column("job", 32), Column("kind", 16), Column("done"), Column("reused"), Column("failed")),
    *(Column("not\nrun"), Column("flagged"), Column("tokens/s"), Column("artifacts/h")),
    *(Column("queue\np50"), Column("queue\np95"), Column("tokens\np50"), Column("tokens\np95")),
)
_NIGHT_COLUMNS = (
    *(Column("started", 16), Column("status", 10), Column("artifacts"), Column("failed")),
    *(Column("engine"), Column("artifacts/h"), Column("tokens/s")),
)


def report_blocks(report: ReportDocument) -> list[RenderableType]:
    """The report's sections, with a blank line between two."""
    run = report["run"]
    sections: tuple[list[RenderableType], ...] = (
        [Line(headline(run)), *_summary(run)],
        _jobs(report["jobs"]),
        _failures(report["failures"]),
        _flags(report["jobs"], report["flags"]),
        _events(report["events"]),
        _work(run),
        _nights(report["nights"]),
        [Line(next_step(run))] if next_step(run) else [],
    )
    blocks: list[RenderableType] = []
    for section in filter(None, sections):
        blocks += [Line("")] if blocks else []
        blocks += section
    return blocks


def _summary(run: RunRow) -> list[RenderableType]:
    return [
        Line(
            f"{clock(run['started_at'])} to {clock(run['finished_at'])}, on "
            f"{sanitize(run['host'])}, model {sanitize(_model_name(run))}",
            indent=2,
        ),
        Line(
            f"{count(run['num_done'])} artifacts made, {count(run['num_reused'])} reused, "
            f"{count(run['num_failed'])} failed, {count(run['num_not_run'])} not run, "
            f"of {count(run['num_items'])} entries",
            indent=2,
        ),
        Line(
            f"{rate(run['artifacts_per_hour'])} artifacts an hour, "
            f"{rate(run['output_tokens_per_s'])} output tokens a second",
            indent=2,
        ),
    ]


def _model_name(run: RunRow) -> str:
    model = run["model"] if isinstance(run["model"], dict) else {}
    name = str(model.get("name") or model.get("id") or NOTHING)
    quantization = model.get("quantization", "none")  # missing in runs of older versions
    return name if quantization == "none" else f"{name} ({quantization})"


def _jobs(jobs: Sequence[JobRow]) -> list[RenderableType]:
    if not jobs:
        return []
    timed = any(job.get("predicted_s") is not None for job in jobs)
    columns = [*_JOB_COLUMNS, *([Column("engine"), Column("predicted")] if timed else [])]
    rows = [
        [sanitize(job["job"], 32), sanitize(job["kind"], 24), *job_figures(job, timed=timed)]
        for job in jobs
    ]
    return [Line("Jobs"), FigureTable(columns, rows)]


def _failures(failures: Sequence[FailureGroup]) -> list[RenderableType]:
    lines: list[RenderableType] = [Line("Failures")] if failures else []
    for group in failures:
        lines.append(Line(f"{sanitize(group['code'])}: {count(group['num'])}", indent=2))
        lines.append(Line(f"What to do: {advice(group['code'])}.", indent=4))
        for entry in group["examples"]:
            variant = f" [{sanitize(entry['variant'], 20)}]" if entry["variant"] else ""
            where = f"{sanitize(entry['job'], 32)} / {sanitize(entry['item_id'], 48)}{variant}"
            lines.append(Line(f"{where}: {sanitize(entry['message'])}", indent=4))
        if group["num"] > len(group["examples"]):
            more = count(group["num"] - len(group["examples"]))
            lines.append(Line(f"and {more} more", indent=4))
    return lines


def _flags(jobs: Sequence[JobRow], flags: Sequence[FlagCount]) -> list[RenderableType]:
    flagged = sum(job.get("num_flagged") or 0 for job in jobs)
    if not flagged:
        return []
    title = f"Flagged by the checks: {count(flagged)} artifacts, stored but worth a look"
    lines: list[RenderableType] = [Line(title)]
    rows = [[sanitize(f["job"], 32), sanitize(f["flag"], 40), count(f["num"])] for f in flags]
    if rows:
        columns = (Column("job", 32), Column("flag", 40), Column("artifacts"))
        lines.append(FigureTable(columns, rows[:_MAX_FLAGS]))
    more = len(rows) - _MAX_FLAGS
    return lines + ([Line(f"and {more} more flags", indent=2)] if more > 0 else [])


def _events(events: Sequence[EventRow]) -> list[RenderableType]:
    if not events:
        return []
    lines = [
        Line(f"{clock(event['happened_at'])} {sanitize(event['message'])}", indent=2)
        for event in events[:_MAX_EVENTS]
    ]
    more = more_events(events, _MAX_EVENTS)
    return [Line("The engine"), *lines, *([Line(more, indent=2)] if more else [])]


def _work(run: RunRow) -> list[RenderableType]:
    prompt, cached = run["prompt_tokens"] or 0, run["cached_prompt_tokens"] or 0
    output, wasted = run["output_tokens"] or 0, run["wasted_tokens"] or 0
    computed = prompt - cached + output + wasted
    fraction = roofline(run)
    figures = (
        (
            "time",
            f"{duration(run['wall_s'])} in all, {duration(run['engine_s'])} of it engine, "
            f"{duration(run['load_s'])} loading",
        ),
        (
            "prompt tokens",
            f"{count(prompt)}, of which {count(cached)} ({share(cached, prompt)}) shared and not "
            "computed again",
        ),
        ("output tokens", count(output)),
        ("wasted", f"{count(wasted)} ({share(wasted, computed)} of what was computed)"),
        ("planned", planned(run)),
        ("predicted", prediction(run)),
        ("roofline", fraction and f"{fraction} of what this device can do at most"),
    )
    lines = [Line(f"{name}: {text}", indent=2) for name, text in figures if text]
    return [Line("Work"), *lines]


def _nights(nights: Sequence[NightRow]) -> list[RenderableType]:
    newest = compared(nights)
    if newest is None:
        return []
    measured = any(run.get("roofline_fraction") is not None for run in nights)
    columns = [*_NIGHT_COLUMNS, *([Column("roofline")] if measured else [])]
    rows = [
        [
            clock(run["started_at"]),
            sanitize(run["status"], 12),
            *run_figures(run),
            *([roofline(run) or NOTHING] if measured else []),
        ]
        for run in nights
    ]
    num = newest["num_compared"]
    runs = "run" if num == 1 else f"{num} runs"
    title = (
        f"Against the last {runs} of the same jobs that completed: "
        f"{change(newest['output_tokens_per_s_change'])} tokens/s, "
        f"{change(newest['artifacts_per_hour_change'])} artifacts an hour, "
        f"{change(newest['engine_s_change'])} engine time"
    )
    return [Line(title), FigureTable(columns, rows)]
