"""One small line chart as SVG text: tokens a second over the run."""

from collections.abc import Sequence

from thothy_batch.report.formatting import Fields, duration, rate

_WIDTH, _HEIGHT = 880, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 12, 14, 26


def tokens_chart(steps: Sequence[Fields]) -> str:
    """Decode and prefill tokens a second; empty where the run has too few samples to draw."""
    if len(steps) < 2:
        return ""
    longest = max(float(step["at_s"] or 0) for step in steps) or 1.0
    highest = max(max(_rate(s, "decode"), _rate(s, "prefill")) for s in steps) or 1.0
    top = _round_up(highest)
    lines = []
    for ticks in range(5):
        value, at_s = top * ticks / 4, longest * ticks / 4
        x, y = _x(at_s, longest), _y(value, top)
        lines.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>')
        lines.append(_label(_LEFT - 8, y + 4, "end", rate(value)))
        anchor = "start" if ticks == 0 else "end" if ticks == 4 else "middle"
        lines.append(_label(x, _HEIGHT - 8, anchor, duration(at_s) if ticks else "0"))
    for name in ("prefill", "decode"):
        points = [(_x(float(s["at_s"] or 0), longest), _y(_rate(s, name), top)) for s in steps]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        lines.append(f'<polyline class="{name}" points="{path}"/>')
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        'aria-label="Tokens a second over the run">' + "".join(lines) + "</svg>"
    )


def _label(x: float, y: float, anchor: str, text: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text}</text>'


def _rate(step: Fields, name: str) -> float:
    return float(step[f"{name}_tokens_per_s"] or 0)


def _x(at_s: float, longest: float) -> float:
    return _LEFT + (_WIDTH - _LEFT - _RIGHT) * at_s / longest


def _y(value: float, top: float) -> float:
    return round(_HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * value / top, 1)


def _round_up(value: float) -> float:
    """The next of 1, 2, 4, 5, 8, 10 times a power of ten: an axis ends on a round figure."""
    power = 1.0
    while power * 10 < value:
        power *= 10
    while power > value:
        power /= 10
    return next(power * step for step in (1, 2, 4, 5, 8, 10) if power * step >= value)
