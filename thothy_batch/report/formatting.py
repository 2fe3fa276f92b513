"""Writes figures and untrusted text for a reader."""

import re
import unicodedata

from thothy_batch.report.document import JobRow, NightRow

NOTHING = "–"
_JOINERS = "\u200c\u200d"  # letters of Persian or Hindi and many emoji need them
# Characters that a terminal obeys instead of showing: controls other than tab and newline, and
# marks that turn the direction of writing.
_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def sanitize(text: object, limit: int = 160) -> str:
    """Makes text of rows or models harmless for a terminal: one line, no control characters.

    Escape sequences could rewrite the screen and direction marks reorder it, so every such
    character is shown as its code. `limit`: characters.
    """
    value = "" if text is None else str(text)
    shown = "".join(_visible(character) for character in value[: 4 * limit])
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def escape_controls(text: str) -> str:
    """Shows control characters of untrusted text as codes and keeps its lines."""
    return _OBEYED.sub(lambda match: ascii(match[0])[1:-1], text)


def number_format(dtype: str, quantization: str) -> str:
    """A model's number format: its dtype, and that of its linears where they are quantised."""
    return dtype if quantization == "none" else f"{dtype} and {quantization}"


def _visible(character: str) -> str:
    if character in "\n\r\t":
        return " "
    if character in _JOINERS:
        return character
    # Cc: controls, Cf: direction and joining marks, Cs: lone surrogates, Zl/Zp: line separators
    if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp"):
        return ascii(character)[1:-1]
    return character


def count(value: float | None) -> str:
    """A whole number with separators."""
    return NOTHING if value is None else f"{value:,.0f}"


def rate(value: float | None) -> str:
    """A rate, with one decimal below 100."""
    if value is None:
        return NOTHING
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def share(part: float | None, whole: float | None) -> str:
    """A part of a whole in percent."""
    if part is None or not whole:
        return NOTHING
    return f"{100 * part / whole:.1f} %"


def change(value: float | None) -> str:
    """A relative change with its sign."""
    return NOTHING if value is None else f"{100 * value:+.1f} %"


def seconds(value: float | None) -> str:
    """A short time."""
    if value is None:
        return NOTHING
    return f"{value:.2f} s" if value < 10 else duration(value)


def duration(value: float | None) -> str:
    """A time in its two largest units."""
    if value is None:
        return NOTHING
    if value < 10:
        return f"{value:.1f} s"
    if round(value) < 60:
        return f"{value:.0f} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def clock(iso: str | None) -> str:
    """Date and time to the minute, from ISO text."""
    return NOTHING if not iso else iso[:16].replace("T", " ")


def job_figures(job: JobRow, *, timed: bool) -> list[str]:
    """A job's figures in a report: counts, rates, queue times, output tokens, and, where `timed`,
    its engine time as measured and as predicted."""
    return [
        count(job.get("num_done")),
        count(job.get("num_reused")),
        count(job.get("num_failed")),
        count(job.get("num_not_run")),
        count(job.get("num_flagged")),
        rate(job.get("output_tokens_per_s")),
        rate(job.get("artifacts_per_hour")),
        seconds(job.get("queue_s_p50")),
        seconds(job.get("queue_s_p95")),
        count(job.get("output_tokens_p50")),
        count(job.get("output_tokens_p95")),
        *([seconds(job.get("engine_s")), seconds(job.get("predicted_s"))] if timed else []),
    ]


def run_figures(run: NightRow) -> list[str]:
    """A run's figures beside other runs: artifacts, failures, engine time, rates."""
    return [
        count(run["num_done"]),
        count(run["num_failed"]),
        duration(run["engine_s"]),
        rate(run["artifacts_per_hour"]),
        rate(run["output_tokens_per_s"]),
    ]
