"""The morning report as plain text, for a terminal or a mail."""

from collections.abc import Sequence

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
    headline,
    next_step,
    prediction,
    promise,
    roofline,
)

_MAX_FLAGS = 12
_MAX_EVENTS = 10


def render_text(data: Fields) -> str:
    """The report of `report_data`'s values: at most about 100 columns, no colours, no controls."""
    run = data["run"]
    blocks = [
        [headline(run), *_summary(run)],
        _jobs(data["jobs"]),
        _failures(data["failures"]),
        _flags(data["jobs"], data["flags"]),
        _events(data["events"]),
        _work(run),
        _nights(data["nights"]),
        [next_step(run)] if next_step(run) else [],
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def _summary(run: Fields) -> list[str]:
    return [
        f"  {clock(run['started_at'])} to {clock(run['finished_at'])}, on {sanitize(run['host'])}, "
        f"model {sanitize(_model_name(run))}",
        f"  {count(run['num_done'])} artifacts made, {count(run['num_reused'])} reused, "
        f"{count(run['num_failed'])} failed, {count(run['num_not_run'])} not run, "
        f"of {count(run['num_items'])} entries",
        f"  {rate(run['artifacts_per_hour'])} artifacts an hour, "
        f"{rate(run['output_tokens_per_s'])} output tokens a second",
    ]


def _model_name(run: Fields) -> str:
    model = run["model"] if isinstance(run["model"], dict) else {}
    name = str(model.get("name") or model.get("id") or "–")
    quantization = model.get("quantization", "none")  # not in runs of older versions
    return name if quantization == "none" else f"{name} ({quantization})"


def _jobs(jobs: Sequence[Fields]) -> list[str]:
    if not jobs:
        return []
    head = ["job", "kind", "done", "reused", "failed", "not run", "flagged"]
    head += ["tokens/s", "artifacts/h", "queue p50", "p95", "tokens p50", "p95"]
    timed = any_known(jobs, "predicted_s")
    head += ["engine", "predicted"] if timed else []
    rows = [
        [
            sanitize(job["job"], 32),
            sanitize(job["kind"], 24),
            *job_figures(job, timed=timed),
        ]
        for job in jobs
    ]
    return ["Jobs", *_table([head, *rows], left=2)]


def _failures(failures: Sequence[Fields]) -> list[str]:
    lines = ["Failures"] if failures else []
    for entry in failures:
        lines.append(f"  {sanitize(entry['code'])}: {count(entry['num'])}")
        lines.append(f"    What to do: {advice(entry['code'])}.")
        for example in entry["examples"]:
            variant = f" [{sanitize(example['variant'], 20)}]" if example["variant"] else ""
            where = f"{sanitize(example['job'], 32)} / {sanitize(example['item_id'], 48)}{variant}"
            lines.append(f"    {where}: {sanitize(example['message'])}")
        if entry["num"] > len(entry["examples"]):
            lines.append(f"    and {count(entry['num'] - len(entry['examples']))} more")
    return lines


def _flags(jobs: Sequence[Fields], flags: Sequence[Fields]) -> list[str]:
    flagged = sum(job.get("num_flagged") or 0 for job in jobs)
    if not flagged:
        return []
    rows = [[sanitize(f["job"], 32), sanitize(f["flag"], 40), count(f["num"])] for f in flags]
    lines = [f"Flagged by the checks: {count(flagged)} artifacts, stored but worth a look"]
    lines += _table(rows[:_MAX_FLAGS], left=2)
    more = len(rows) - _MAX_FLAGS
    return lines + ([f"  and {more} more kinds of flags"] if more > 0 else [])


def _events(events: Sequence[Fields]) -> list[str]:
    if not events:
        return []
    lines = [
        f"  {clock(each['happened_at'])} {sanitize(each['message'])}"
        for each in events[:_MAX_EVENTS]
    ]
    more = len(events) - _MAX_EVENTS
    return ["The engine", *lines, *([f"  and {more} more events"] if more > 0 else [])]


def _work(run: Fields) -> list[str]:
    prompt, cached = run["prompt_tokens"] or 0, run["cached_prompt_tokens"] or 0
    output, wasted = run["output_tokens"] or 0, run["wasted_tokens"] or 0
    computed = prompt - cached + output + wasted
    lines = [
        "Work",
        f"  time: {duration(run['wall_s'])} in all, {duration(run['engine_s'])} of it engine, "
        f"{duration(run['load_s'])} loading",
        f"  prompt tokens: {count(prompt)}, of them shared and not computed again "
        f"{count(cached)} ({share(cached, prompt)})",
        f"  output tokens: {count(output)}",
        f"  wasted: {count(wasted)} ({share(wasted, computed)} of what was computed)",
    ]
    told = (
        ("planned", promise(run)),
        ("predicted", prediction(run)),
        ("roofline", roofline(run) and f"{roofline(run)} of what this device can do at most"),
    )
    return lines + [f"  {name}: {text}" for name, text in told if text]


def _nights(nights: Sequence[Fields]) -> list[str]:
    newest = compared(list(nights))
    if newest is None:
        return []
    head = ["started", "status", "artifacts", "failed", "engine", "artifacts/h", "tokens/s"]
    measured = any_known(nights, "roofline_fraction")
    head += ["roofline"] if measured else []
    rows = [
        [
            clock(night["started_at"]),
            sanitize(night["status"], 12),
            count(night["num_done"]),
            count(night["num_failed"]),
            duration(night["engine_s"]),
            rate(night["artifacts_per_hour"]),
            rate(night["output_tokens_per_s"]),
            *([roofline(night) or NOTHING] if measured else []),
        ]
        for night in nights
    ]
    return [
        f"Against the {newest['num_compared']} runs before it: "
        f"{change(newest['output_tokens_per_s_change'])} tokens/s, "
        f"{change(newest['artifacts_per_hour_change'])} artifacts an hour, "
        f"{change(newest['engine_s_change'])} engine time",
        *_table([head, *rows], left=2),
    ]


def _table(rows: Sequence[Sequence[str]], *, left: int) -> list[str]:
    """Aligned columns: the first `left` to the left, figures to the right."""
    if not rows:
        return []
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return [
        "  "
        + "  ".join(
            cell.ljust(width) if place < left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
