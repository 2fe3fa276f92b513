"""Geometry of the page's line chart: tokens a second over the run."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from thothy_batch.report.document import StepPoint
from thothy_batch.report.formatting import duration, rate

_WIDTH, _HEIGHT = 880, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 12, 14, 26  # margins
_TICKS = 4

Rate = Literal["decode_tokens_per_s", "prefill_tokens_per_s"]


@dataclass(frozen=True, slots=True)
class Label:
    """A figure beside an axis. `anchor`: SVG's start, middle or end."""

    x: float
    y: float
    anchor: str
    text: str


@dataclass(frozen=True, slots=True)
class Chart:
    """Everything that the SVG needs, in its coordinates; lines as lists of points."""

    grid: list[float]
    labels: list[Label]
    prefill: str
    decode: str
    width: int = _WIDTH
    height: int = _HEIGHT
    left: int = _LEFT
    right: int = _WIDTH - _RIGHT


def tokens_chart(steps: Sequence[StepPoint]) -> Chart | None:
    """Decode and prefill tokens a second; None where the run has too few samples to draw."""
    if len(steps) < 2:
        return None
    longest = max(step["at_s"] or 0.0 for step in steps) or 1.0
    names: tuple[Rate, Rate] = ("prefill_tokens_per_s", "decode_tokens_per_s")
    highest = max(step[name] or 0.0 for step in steps for name in names) or 1.0
    top = _round_up(highest)
    grid, labels = [], []
    for tick in range(_TICKS + 1):
        value, at_s = top * tick / _TICKS, longest * tick / _TICKS
        y = _y(value, top)
        grid.append(y)
        labels.append(Label(_LEFT - 8, y + 4, "end", rate(value)))
        anchor = "start" if tick == 0 else "end" if tick == _TICKS else "middle"
        text = duration(at_s) if tick else "0"
        labels.append(Label(round(_x(at_s, longest), 1), _HEIGHT - 8, anchor, text))
    prefill, decode = (_points(steps, name, longest, top) for name in names)
    return Chart(grid, labels, prefill, decode)


def _points(steps: Sequence[StepPoint], name: Rate, longest: float, top: float) -> str:
    points = ((_x(step["at_s"] or 0.0, longest), _y(step[name] or 0.0, top)) for step in steps)
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _x(at_s: float, longest: float) -> float:
    return _LEFT + (_WIDTH - _LEFT - _RIGHT) * at_s / longest


def _y(value: float, top: float) -> float:
    return round(_HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * value / top, 1)


def _round_up(value: float) -> float:
    """The next of 1, 2, 4, 5, 8 or 10 times a power of ten: a round end of an axis."""
    power = 1.0
    while power * 10 < value:
        power *= 10
    while power > value:
        power /= 10
    return next(power * step for step in (1, 2, 4, 5, 8, 10) if power * step >= value)
