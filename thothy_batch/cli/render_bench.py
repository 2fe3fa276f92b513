"""Text of `bench`, which its document follows as one line."""

from rich.console import RenderableType

from thothy_batch.bench import BenchFigures
from thothy_batch.report import NOTHING, Line, count, number_format, pairs_table, rate, sanitize

_MAX_REFUSED = 5


def bench_blocks(figures: BenchFigures) -> list[RenderableType]:
    """The figures of one benchmark."""
    blocks: list[RenderableType] = [pairs_table(_pairs(figures))]
    for refusal in figures.refused[:_MAX_REFUSED]:
        text = f"refused: {sanitize(refusal.name, 80)}: {sanitize(refusal.message, 300)}"
        blocks.append(Line(text))
    if figures.num_refused > _MAX_REFUSED:
        blocks.append(Line(f"refused: and {count(figures.num_refused - _MAX_REFUSED)} more"))
    return blocks + [Line(f"note: {sanitize(text, 300)}") for text in figures.notes]


def _pairs(figures: BenchFigures) -> list[tuple[str, str]]:
    number = number_format(figures.dtype, figures.quantization)
    return [
        ("workload", sanitize(figures.workload, 300)),
        ("model", f"{sanitize(figures.model)}, {number}, {figures.impl} kernels"),
        ("device", f"{figures.device}: {sanitize(figures.device_name)}"),
        ("requests", f"{count(figures.num_done)} done, {count(figures.num_refused)} refused"),
        (
            "prompt tokens",
            f"{count(figures.prompt_tokens)}: {count(figures.prefill_tokens)} computed, "
            f"{count(figures.cached_prompt_tokens)} shared",
        ),
        ("output tokens", f"{count(figures.output_tokens)} in {count(figures.num_steps)} steps"),
        (
            "seconds",
            f"{figures.engine_s:.2f} engine, {figures.load_s:.2f} loading, "
            f"{figures.plan_s:.2f} planning",
        ),
        ("output tokens/s", rate(figures.output_tokens_per_s)),
        ("total tokens/s", rate(figures.total_tokens_per_s)),
        ("requests/s", rate(figures.requests_per_s)),
        (
            "artifacts/h" if figures.device == "cpu" else "artifacts/GPU-h",
            count(figures.artifacts_per_hour),
        ),
        ("share of roofline", _percent(figures.roofline_fraction)),
        ("device busy", _percent(figures.busy_fraction)),
        ("peak memory", f"{figures.peak_memory_bytes / (1 << 30):.2f} GiB"),
    ]


def _percent(value: float | None) -> str:
    return NOTHING if value is None else f"{100 * value:.1f} %"
