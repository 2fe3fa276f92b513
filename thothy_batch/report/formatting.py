"""How figures and foreign text are written in a report."""

import unicodedata
from collections.abc import Mapping
from typing import Any

Fields = dict[str, Any]
NOTHING = "–"
_JOINERS = "\u200c\u200d"  # letters of Persian or Hindi and many emoji need them


def sanitize(text: object, limit: int = 160) -> str:
    """Text of rows or models made harmless for a terminal: one line, no control characters.

    Escape sequences could rewrite the screen, and direction marks could reorder it, so every
    character of that sort is shown as its code instead.
    """
    value = "" if text is None else str(text)
    shown = "".join(_visible(character) for character in value[: 4 * limit])
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def number_format(model: Mapping[str, Any]) -> str:
    """In what a model computes: its dtype, and how its linears are quantised, if they are."""
    quantization = model.get("quantization", "none")
    return model["dtype"] if quantization == "none" else f"{model['dtype']} and {quantization}"


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
    """A speed: three significant figures where it is small."""
    if value is None:
        return NOTHING
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def share(part: float | None, whole: float | None) -> str:
    """A part of a whole in per cent."""
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
    """A time in the two units that matter."""
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
    """Local date and time out of ISO text."""
    return NOTHING if not iso else iso[:16].replace("T", " ")


def job_figures(job: Mapping[str, Any], *, timed: bool) -> list[str]:
    """A job's row in a report behind its name and kind: counts, rates, queue times, tokens,
    engine time as it was and as it was predicted where `timed`."""
    counts = ("done", "reused", "failed", "not_run", "flagged")
    return [
        *(count(job.get(f"num_{name}")) for name in counts),
        *(rate(job.get(name)) for name in ("output_tokens_per_s", "artifacts_per_hour")),
        *(seconds(job.get(name)) for name in ("queue_s_p50", "queue_s_p95")),
        *(count(job.get(name)) for name in ("output_tokens_p50", "output_tokens_p95")),
        *(seconds(job.get(name)) for name in (("engine_s", "predicted_s") if timed else ())),
    ]
