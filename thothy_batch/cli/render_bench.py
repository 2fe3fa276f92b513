"""What `bench` prints for people, with the document as one line behind it."""

import json
from collections.abc import Mapping
from typing import Any

from thothy_batch.report.formatting import NOTHING, count, number_format, rate, sanitize

Fields = Mapping[str, Any]
_SHOWN_REFUSED = 5


def bench_text(found: Fields) -> str:
    """A table, and the JSON line last."""
    lines = [f"{name:<18}{value}" for name, value in _rows(found)]
    for row in found["refused"][:_SHOWN_REFUSED]:
        lines.append(f"refused: {sanitize(row['name'], 80)}: {sanitize(row['message'], 300)}")
    if found["num_refused"] > _SHOWN_REFUSED:
        lines.append(f"refused: and {count(found['num_refused'] - _SHOWN_REFUSED)} more")
    lines += [f"note: {sanitize(text, 300)}" for text in found["notes"]]
    return "\n".join([*lines, json.dumps(found)]) + "\n"


def _rows(found: Fields) -> list[tuple[str, str]]:
    return [
        ("workload", sanitize(found["workload"], 300)),
        ("model", f"{sanitize(found['model'])}, {number_format(found)}, {found['impl']} kernels"),
        ("device", f"{found['device']}: {sanitize(found['device_name'])}"),
        ("requests", f"{count(found['num_done'])} done, {count(found['num_refused'])} refused"),
        (
            "prompt tokens",
            f"{count(found['prompt_tokens'])}: {count(found['prefill_tokens'])} computed, "
            f"{count(found['cached_prompt_tokens'])} shared",
        ),
        ("output tokens", f"{count(found['output_tokens'])} in {count(found['num_steps'])} steps"),
        (
            "seconds",
            f"{found['engine_s']:.2f} engine, {found['load_s']:.2f} loading, "
            f"{found['plan_s']:.2f} planning",
        ),
        ("output tokens/s", rate(found["output_tokens_per_s"])),
        ("total tokens/s", rate(found["total_tokens_per_s"])),
        ("requests/s", rate(found["requests_per_s"])),
        (_artifacts(found["device"]), count(found["artifacts_per_hour"])),
        ("share of roofline", _percent(found["roofline_fraction"])),
        ("device busy", _percent(found["busy_fraction"])),
        ("peak memory", f"{found['peak_memory_bytes'] / (1 << 30):.2f} GiB"),
    ]


def _artifacts(device: str) -> str:
    return "artifacts/h" if device == "cpu" else "artifacts/GPU-h"


def _percent(value: float | None) -> str:
    return NOTHING if value is None else f"{100 * value:.1f} %"
