"""What `doctor` prints for people."""

from collections.abc import Mapping
from typing import Any

from thothy_batch.report.formatting import count, number_format, rate, sanitize

Fields = Mapping[str, Any]


def doctor_text(found: Fields) -> str:
    """What a machine can do."""
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    gpu = found["gpu"]
    lines = [] if gpu is None else [_gpu_line(gpu)]
    lines += [
        f"device: {found['device']}",
        f"cpu: {sanitize(found['cpu_name'])} ({found['cores']} cores, {found['threads']} threads, "
        f"{found['memory_gib']:.1f} GiB memory, {found['memory_free_gib']:.1f} free)",
        f"kernels: {', '.join(found['impls'])} (auto: {found['auto_impl']})",
        f"versions: {versions}",
    ]
    lines += [
        f"measured: {name} linears {speed:,.0f} {'GOP' if name == 'int8' else 'GFLOP'}/s at most"
        for name, speed in found["gflops"].items()
    ]
    how = "reading" if found["device"] == "cpu" else "reading and writing, of a copy"
    lines.append(f"measured: memory bandwidth {found['bandwidth_gb_s']:,.1f} GB/s ({how})")
    if found["model"] is not None:
        lines += _model_lines(found["model"])
    lines += [f"note: {sanitize(text, 300)}" for text in found["notes"]]
    lines += [f"warning: {sanitize(text, 300)}" for text in found["warnings"]]
    return "\n".join(lines) + "\n"


def _gpu_line(gpu: Fields) -> str:
    return (
        f"gpu: {sanitize(gpu['name'])} (compute capability {gpu['capability']}, driver "
        f"{gpu['driver']}, {gpu['memory_gib']:.1f} GiB memory, {gpu['memory_free_gib']:.1f} free)"
    )


def _model_lines(model: Fields) -> list[str]:
    """How fast it runs one model."""
    lines = [
        f"model: {sanitize(model['name'])} ({sanitize(model['architecture'])}, "
        f"{count(model['num_parameters'])} parameters, {number_format(model)}, "
        f"{model['impl']} kernels)"
    ]
    rates = [f"{_rows(at['rows'])} {rate(at['tokens_per_s'])}" for at in model["linears"]]
    if rates:
        lines.append(f"measured: linears in tokens a second, by rows of a step: {', '.join(rates)}")
    if model["kv_gb_s"] is not None:
        lines.append(f"measured: decoding reads KV at {model['kv_gb_s']:,.1f} GB/s")
    lines.append(
        f"measured: the host takes {1e3 * model['host_step_s']:.2f} ms a step and "
        f"{1e3 * model['host_row_s']:.3f} ms a row"
    )
    gains = [f"{count(at['context'])} tokens {at['gain']:.2f}" for at in model["capacity"]]
    if gains:
        lines.append(
            f"sequences in the KV pool, times those of one that is the same for all layers, "
            f"at a context of: {', '.join(gains)}"
        )
    return lines


def _rows(num: int) -> str:
    return f"{num} row" if num == 1 else f"{num} rows"
