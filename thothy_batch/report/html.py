"""Renders the report as one HTML page: no script, nothing loaded, every text escaped."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files

from thothy_batch.report.chart import Chart, tokens_chart
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
from thothy_batch.report.phrases import (
    advice,
    compared,
    ending,
    more_events,
    next_step,
    planned,
    prediction,
    roofline,
)
from thothy_batch.templating import page_template

_LIMIT = 300  # characters of a text from a row or a model
_MAX_EVENTS = 100  # a night of restarts has thousands
_STATES = ("completed", "running", "stopped")


@dataclass(frozen=True, slots=True)
class Table:
    """A table of the page; the first `num_texts` columns are texts, the others figures."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    num_texts: int


@dataclass(frozen=True, slots=True)
class Tile:
    """One figure of the run, with what it is and a remark."""

    label: str
    figure: str
    note: str


@dataclass(frozen=True, slots=True)
class Failure:
    """Failures of one code. `more`: the number of those without an example, "" where none."""

    code: str
    num: str
    advice: str
    examples: Table
    more: str


@dataclass(frozen=True, slots=True)
class Page:
    """The contents of the page, as strings that the template escapes."""

    title: str
    run_id: str
    heading: str
    state: str
    ending: str
    place: str
    next_step: str
    tiles: Sequence[Tile]
    lines: Sequence[str]
    chart: Chart | None
    jobs: Table
    failures: Sequence[Failure]
    flags: Table
    events: Table
    more_events: str
    nights: Table
    settings: Sequence[tuple[str, Table]]


def render_html(report: ReportDocument) -> str:
    """The report as one self-contained page."""
    here = files("thothy_batch.report")
    template = page_template((here / "page.html.j2").read_text(encoding="utf-8"))
    style = (here / "page.css").read_text(encoding="utf-8")
    return template.render(page=_page(report), style=style).lstrip()


def _page(report: ReportDocument) -> Page:
    run = report["run"]
    lines = (("Predicted", prediction(run)), ("Planned", planned(run)))
    began, ended = clock(run["started_at"]), clock(run["finished_at"])
    return Page(
        title=sanitize(f"{run['name'] or 'thothy-batch'}: {began}", _LIMIT),
        run_id=sanitize(run["run_id"], _LIMIT),
        heading=sanitize(run["name"] or "Run report", _LIMIT),
        state=_state(run),
        ending=sanitize(ending(run), _LIMIT),
        place=f"{began} to {ended} on {sanitize(run['host'], _LIMIT)}",
        next_step=next_step(run),
        tiles=_tiles(run, compared(report["nights"])),
        lines=[f"{name}: {text}." for name, text in lines if text],
        chart=tokens_chart(report["steps"]),
        jobs=_jobs(report["jobs"]),
        failures=[_failure(group) for group in report["failures"]],
        flags=_flags(report["flags"]),
        events=_events(report["events"][:_MAX_EVENTS]),
        more_events=more_events(report["events"], _MAX_EVENTS),
        nights=_nights(report["nights"]),
        settings=_settings(run),
    )


def _state(run: RunRow) -> str:
    """The CSS class of the run's ending."""
    if run["status"] == "completed" and run["num_failed"]:
        return "stopped"
    return run["status"] if run["status"] in _STATES else "failed"


def _tiles(run: RunRow, newest: NightRow | None) -> list[Tile]:
    prompt, cached = run["prompt_tokens"] or 0, run["cached_prompt_tokens"] or 0
    output, wasted = run["output_tokens"] or 0, run["wasted_tokens"] or 0
    computed = prompt - cached + output + wasted
    made_change = newest["artifacts_per_hour_change"] if newest else None
    speed_change = newest["output_tokens_per_s_change"] if newest else None
    tiles = (
        Tile(
            "artifacts made",
            count(run["num_done"]),
            f"of {count(run['num_items'])} entries; {count(run['num_reused'])} reused",
        ),
        Tile("failed", count(run["num_failed"]), f"{count(run['num_not_run'])} not run"),
        Tile("artifacts an hour", rate(run["artifacts_per_hour"]), _versus(made_change)),
        Tile("output tokens a second", rate(run["output_tokens_per_s"]), _versus(speed_change)),
        Tile("took", duration(run["wall_s"]), f"{duration(run['engine_s'])} engine"),
        Tile(
            "prompt tokens shared",
            share(run["cached_prompt_tokens"], run["prompt_tokens"]),
            f"of {count(run['prompt_tokens'])}",
        ),
        Tile(
            "wasted",
            share(run["wasted_tokens"], computed),
            f"{count(run['wasted_tokens'])} tokens",
        ),
        Tile("of what the device can do", roofline(run), "at most, by its roofline"),
    )
    return [tile for tile in tiles if tile.figure]


def _versus(value: float | None) -> str:
    return "" if value is None else f"{change(value)} against recent runs"


def _jobs(jobs: Sequence[JobRow]) -> Table:
    timed = any(job.get("predicted_s") is not None for job in jobs)
    head = (
        *("job", "kind", "done", "reused", "failed", "not run", "flagged", "output tokens/s"),
        *("artifacts/h", "queue p50", "queue p95", "tokens p50", "tokens p95"),
        *(("engine", "predicted") if timed else ()),
        "ended by",
    )
    rows = [
        (
            sanitize(job["job"], 60),
            sanitize(job["kind"], 40),
            *job_figures(job, timed=timed),
            _reasons(job.get("finish_reasons")),
        )
        for job in jobs
    ]
    return Table(head, rows, num_texts=2)


def _reasons(reasons: Mapping[str, int] | None) -> str:
    pairs = sorted((reasons or {}).items())
    return ", ".join(f"{sanitize(name, 20)} {count(num)}" for name, num in pairs)


def _failure(group: FailureGroup) -> Failure:
    rows = [
        (
            sanitize(entry["job"], 60),
            sanitize(entry["item_id"], 80),
            sanitize(entry["variant"], 20),
            sanitize(entry["message"], _LIMIT),
        )
        for entry in group["examples"]
    ]
    more = group["num"] - len(rows)
    return Failure(
        code=sanitize(group["code"], _LIMIT),
        num=count(group["num"]),
        advice=advice(group["code"]),
        examples=Table(("job", "item", "variant", "message"), rows, num_texts=4),
        more=count(more) if more > 0 else "",
    )


def _flags(flags: Sequence[FlagCount]) -> Table:
    rows = [(sanitize(f["job"], 60), sanitize(f["flag"], 80), count(f["num"])) for f in flags]
    return Table(("job", "flag", "artifacts"), rows, num_texts=2)


def _events(events: Sequence[EventRow]) -> Table:
    rows = [(clock(each["happened_at"]), sanitize(each["message"], _LIMIT)) for each in events]
    return Table(("at", "what happened"), rows, num_texts=2)


def _nights(nights: Sequence[NightRow]) -> Table:
    """Empty where the reported run is the only one."""
    measured = any(run.get("roofline_fraction") is not None for run in nights)
    head = (
        *("started", "status", "artifacts", "failed", "engine", "artifacts/h", "tokens/s"),
        *(("change", "roofline") if measured else ("change",)),
    )
    rows = [
        (
            clock(run["started_at"]),
            sanitize(run["status"], 20),
            *run_figures(run),
            change(run["output_tokens_per_s_change"]),
            *((roofline(run) or NOTHING,) if measured else ()),
        )
        for run in nights
    ]
    return Table(head, rows if len(rows) > 1 else [], num_texts=2)


def _settings(run: RunRow) -> list[tuple[str, Table]]:
    groups = (("model", run["model"]), ("engine", run["engine"]), ("versions", run["versions"]))
    return [
        (name, Table(("setting", "value"), _setting_rows(values), num_texts=2))
        for name, values in groups
        if isinstance(values, dict) and values
    ]


def _setting_rows(values: Mapping[str, object]) -> list[tuple[str, str]]:
    return [(sanitize(key, 60), sanitize(value, _LIMIT)) for key, value in sorted(values.items())]
