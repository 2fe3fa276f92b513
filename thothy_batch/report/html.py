"""The morning report as one HTML page: no script, nothing loaded from elsewhere, all escaped."""

from collections.abc import Sequence
from html import escape

from thothy_batch.report.chart import tokens_chart
from thothy_batch.report.formatting import (
    NOTHING,
    Fields,
    change,
    clock,
    count,
    duration,
    job_figures,
    rate,
    sanitize,
    share,
)
from thothy_batch.report.phrases import (
    advice,
    any_known,
    compared,
    ending,
    next_step,
    prediction,
    promise,
    roofline,
)
from thothy_batch.report.stylesheet import STYLE


def render_html(data: Fields) -> str:
    """One self-contained page of `report_data`'s values."""
    run = data["run"]
    title = _text(f"{run['name'] or 'thothy-batch'}: {clock(run['started_at'])}")
    sections = (
        _head(run),
        _tiles(run, compared(data["nights"])),
        _chart(data["steps"]),
        _jobs(data["jobs"]),
        _failures(data["failures"]),
        _flags(data["flags"]),
        _events(data["events"]),
        _nights(data["nights"]),
        _settings(data),
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style></head>\n<body><main>\n"
        + "\n".join(section for section in sections if section)
        + "\n</main></body></html>\n"
    )


def _text(value: object, limit: int = 300) -> str:
    """Foreign text for HTML: controls shown as codes, markup escaped."""
    return escape(sanitize(value, limit), quote=True)


def _head(run: Fields) -> str:
    state = run["status"] if run["status"] in ("completed", "running", "stopped") else "failed"
    if state == "completed" and run["num_failed"]:
        state = "stopped"
    step = next_step(run)
    return (
        f"<header><p class='eyebrow'>thothy-batch · run {_text(run['run_id'])}</p>"
        f"<h1>{_text(run['name'] or 'Night report')}</h1>"
        f"<p><span class='state {state}'>{_text(ending(run))}</span> "
        f"{clock(run['started_at'])} to {clock(run['finished_at'])} on {_text(run['host'])}</p>"
        + (f"<p class='next'>{_text(step)}</p>" if step else "")
        + "</header>"
    )


def _tiles(run: Fields, newest: Fields | None) -> str:
    computed = sum(run[name] or 0 for name in ("prompt_tokens", "output_tokens", "wasted_tokens"))
    computed -= run["cached_prompt_tokens"] or 0
    against = newest or {}
    entries = f"of {count(run['num_items'])} entries; {count(run['num_reused'])} reused"
    left = f"{count(run['num_not_run'])} not run"
    tiles = (
        ("artifacts made", count(run["num_done"]), entries),
        ("failed", count(run["num_failed"]), left),
        (
            "artifacts an hour",
            rate(run["artifacts_per_hour"]),
            _versus(against.get("artifacts_per_hour_change")),
        ),
        (
            "output tokens a second",
            rate(run["output_tokens_per_s"]),
            _versus(against.get("output_tokens_per_s_change")),
        ),
        ("took", duration(run["wall_s"]), f"{duration(run['engine_s'])} engine"),
        (
            "prompt tokens shared",
            share(run["cached_prompt_tokens"], run["prompt_tokens"]),
            f"of {count(run['prompt_tokens'])}",
        ),
        (
            "wasted",
            share(run["wasted_tokens"], computed),
            f"{count(run['wasted_tokens'])} tokens",
        ),
        ("of what the device can do", roofline(run), "at most, by its roofline"),
    )
    cells = "".join(
        f"<div><dt>{label}</dt><dd>{figure}</dd><small>{note}</small></div>"
        for label, figure, note in tiles
        if figure
    )
    told = (("Predicted", prediction(run)), ("Planned", promise(run)))
    lines = "".join(f"<p>{name}: {text}.</p>" for name, text in told if text)
    return f"<dl class='tiles'>{cells}</dl>{lines}"


def _versus(value: float | None) -> str:
    return "" if value is None else f"{change(value)} against recent runs"


def _chart(steps: Sequence[Fields]) -> str:
    chart = tokens_chart(steps)
    if not chart:
        return ""
    legend = "<p class='legend'><i class='decode'></i>output <i class='prefill'></i>prompt</p>"
    return f"<section><h2>Tokens a second</h2>{legend}{chart}</section>"


def _jobs(jobs: Sequence[Fields]) -> str:
    head = ["job", "kind", "done", "reused", "failed", "not run", "flagged", "output tokens/s"]
    head += ["artifacts/h", "queue p50", "queue p95", "tokens p50", "tokens p95"]
    timed = any_known(jobs, "predicted_s")
    head += ["engine", "predicted", "ended by"] if timed else ["ended by"]
    rows = [
        (
            _text(job["job"], 60),
            _text(job["kind"], 40),
            *job_figures(job, timed=timed),
            _reasons(job.get("finish_reasons")),
        )
        for job in jobs
    ]
    return _section("Jobs", _table(head, rows, left=2))


def _reasons(reasons: Fields | None) -> str:
    pairs = sorted((reasons or {}).items())
    return ", ".join(f"{_text(name, 20)} {count(num)}" for name, num in pairs)


def _failures(failures: Sequence[Fields]) -> str:
    parts = []
    for entry in failures:
        rows = [
            (
                _text(e["job"], 60),
                _text(e["item_id"], 80),
                _text(e["variant"], 20),
                _text(e["message"]),
            )
            for e in entry["examples"]
        ]
        more = entry["num"] - len(rows)
        parts.append(
            f"<h3>{_text(entry['code'])} <b>{count(entry['num'])}</b></h3>"
            f"<p>{_text(advice(entry['code']))}.</p>"
            + _table(("job", "item", "variant", "message"), rows, left=4)
            + (f"<p class='note'>and {count(more)} more</p>" if more > 0 else "")
        )
    return _section("Failures", "".join(parts))


def _flags(flags: Sequence[Fields]) -> str:
    rows = [(_text(f["job"], 60), _text(f["flag"], 80), count(f["num"])) for f in flags]
    note = "<p>Stored, but worth a look before use.</p>" if rows else ""
    return _section(
        "Flagged by the checks", note + _table(("job", "flag", "artifacts"), rows, left=2)
    )


def _events(events: Sequence[Fields]) -> str:
    rows = [(clock(each["happened_at"]), _text(each["message"])) for each in events]
    return _section("The engine", _table(("at", "what happened"), rows, left=2))


def _nights(nights: Sequence[Fields]) -> str:
    head = [
        "started",
        "status",
        "artifacts",
        "failed",
        "engine",
        "artifacts/h",
        "tokens/s",
        "change",
    ]
    measured = any_known(nights, "roofline_fraction")
    head += ["roofline"] if measured else []
    rows = [
        (
            clock(night["started_at"]),
            _text(night["status"], 20),
            count(night["num_done"]),
            count(night["num_failed"]),
            duration(night["engine_s"]),
            rate(night["artifacts_per_hour"]),
            rate(night["output_tokens_per_s"]),
            change(night["output_tokens_per_s_change"]),
            *([roofline(night) or NOTHING] if measured else []),
        )
        for night in nights
    ]
    return _section("Recent runs", _table(head, rows, left=2)) if len(rows) > 1 else ""


def _settings(data: Fields) -> str:
    parts = []
    for name in ("model", "engine", "versions"):
        values = data["run"][name]
        if isinstance(values, dict) and values:
            rows = [(_text(key, 60), _text(value)) for key, value in sorted(values.items())]
            parts.append(f"<h3>{name}</h3>" + _table(("setting", "value"), rows, left=2))
    body = f"<details><summary>What the run used</summary>{''.join(parts)}</details>"
    return _section("Settings", body) if parts else ""


def _section(title: str, body: str) -> str:
    return f"<section><h2>{title}</h2>{body}</section>" if body else ""


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], *, left: int) -> str:
    """Cells are escaped by the caller."""
    if not rows:
        return ""

    def line(cells: Sequence[str], tag: str) -> str:
        return "".join(
            f"<{tag}{'' if place < left else ' class=n'}>{cell}</{tag}>"
            for place, cell in enumerate(cells)
        )

    body = "".join(f"<tr>{line(row, 'td')}</tr>" for row in rows)
    return (
        f"<div class='scroll'><table><thead><tr>{line(head, 'th')}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )
