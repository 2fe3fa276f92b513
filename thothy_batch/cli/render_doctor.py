"""Text of `doctor`."""

from datetime import datetime

from rich.console import RenderableType

from thothy_batch.report import (
    Column,
    FigureTable,
    Line,
    count,
    duration,
    number_format,
    pairs_table,
    rate,
    sanitize,
)
from thothy_batch.runner.commands import (
    DoctorDocument,
    GpuDocument,
    MeasuredModelDocument,
    PreparationDocument,
)


def doctor_blocks(found: DoctorDocument) -> list[RenderableType]:
    """The capabilities and measured speed of a machine."""
    blocks: list[RenderableType] = [pairs_table(_machine(found))]
    if found["model"] is not None:
        blocks += [Line(""), *_model(found["model"])]
    blocks += [Line(f"note: {sanitize(text, 300)}") for text in found["notes"]]
    return blocks + [Line(f"warning: {sanitize(text, 300)}") for text in found["warnings"]]


def preparation_blocks(done: PreparationDocument) -> list[RenderableType]:
    """The preparation of a machine for runs of a model."""
    name, number = sanitize(done["model"]), done["num_compiled"]
    compiled = f"{count(number)} kernels compiled in {duration(done['compile_s'])}"
    texts = [f"{name}: {compiled if number else 'all kernels are there'}"]
    if not done["has_limits"]:
        texts.append("the device was not measured: other programs keep this machine busy")
    return [Line(text) for text in texts]


def _machine(found: DoctorDocument) -> list[tuple[str, str]]:
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    linears = [
        (f"{name} linears", f"{speed:,.0f} {'GOP' if name == 'int8' else 'GFLOP'}/s at most")
        for name, speed in found["gflops"].items()
    ]
    how = "reading" if found["device"] == "cpu" else "reading and writing, of a copy"
    return [
        *([] if found["gpu"] is None else [("gpu", _gpu(found["gpu"]))]),
        ("device", found["device"]),
        (
            "cpu",
            f"{sanitize(found['cpu_name'])} ({found['cores']} cores, {found['threads']} threads, "
            f"{found['memory_gib']:.1f} GiB memory, {found['memory_free_gib']:.1f} free)",
        ),
        ("kernels", f"{', '.join(found['impls'])} (auto: {found['auto_impl']})"),
        ("versions", versions),
        *linears,
        ("memory bandwidth", f"{found['bandwidth_gb_s']:,.1f} GB/s ({how})"),
        ("measured", _measured(found)),
    ]


def _measured(found: DoctorDocument) -> str:
    """The load under which the device was measured, and which figures runs compute with."""
    load, kept_at = found["load"], found["limits_of_runs_at"]
    if load is None:
        return "now; how busy the machine is, the system does not tell"
    text = f"now, while other programs had {load:.0%} of the cores"
    if kept_at == found["measured_at"]:
        return text
    if kept_at is None:
        return f"{text}: too many; runs measure again when the machine is quiet"
    age = datetime.fromisoformat(found["measured_at"]) - datetime.fromisoformat(kept_at)
    return f"{text}: too many; runs use the figures of {duration(age.total_seconds())} ago"


def _gpu(gpu: GpuDocument) -> str:
    return (
        f"{sanitize(gpu['name'])} (compute capability {gpu['capability']}, driver "
        f"{gpu['driver']}, {gpu['memory_gib']:.1f} GiB memory, {gpu['memory_free_gib']:.1f} free)"
    )


def _model(model: MeasuredModelDocument) -> list[RenderableType]:
    """The measured speed of one model."""
    number = number_format(model["dtype"], model["quantization"])
    pairs = [
        (
            "model",
            f"{sanitize(model['name'])} ({sanitize(model['architecture'])}, "
            f"{count(model['num_parameters'])} parameters, {number}, {model['impl']} kernels)",
        )
    ]
    if model["kv_gb_s"] is not None:
        pairs.append(("KV reads", f"{model['kv_gb_s']:,.1f} GB/s while decoding"))
    pairs.append(
        (
            "host overhead",
            f"{1e3 * model['host_step_s']:.2f} ms a step, {1e3 * model['host_row_s']:.3f} ms a row",
        )
    )
    blocks: list[RenderableType] = [pairs_table(pairs)]
    if model["linears"]:
        columns = (Column("rows of a step"), Column("linears, tokens/s"))
        rates = [[count(at["rows"]), rate(at["tokens_per_s"])] for at in model["linears"]]
        blocks += [Line(""), FigureTable(columns, rates)]
    if model["capacity"]:
        columns = (Column("context, tokens"), Column("sequences in the KV pool"))
        gains = [[count(at["context"]), f"{at['gain']:.2f}x"] for at in model["capacity"]]
        text = "Sliding-window layers keep only their window; relative to full attention:"
        blocks += [Line(""), Line(text), FigureTable(columns, gains)]
    return blocks
