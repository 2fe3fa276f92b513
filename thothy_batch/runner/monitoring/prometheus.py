"""A run's figures as a Prometheus text file, for the textfile collector of a node exporter.

Format: https://prometheus.io/docs/instrumenting/exposition_formats/ (version 0.0.4).
"""

import contextlib
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from thothy_batch.process.atomic_write import replace_file

_GAUGES = {
    "elapsed_s": ("elapsed_seconds", "Seconds since the run began."),
    "eta_s": ("eta_seconds", "Seconds until the end, as it looks now."),
    "num_running": ("running_requests", "Requests that are being computed."),
    "num_waiting": ("waiting_requests", "Requests that the engine has not begun."),
    "blocks_used": ("kv_blocks_used", "Blocks of the KV pool in use."),
    "blocks_total": ("kv_blocks", "Blocks of the KV pool."),
    "output_tokens": ("output_tokens", "Output tokens of this run so far."),
    "output_tokens_per_s": ("output_tokens_per_second", "Output tokens a second, lately."),
    "exit_code": ("exit_code", "Of the run, once it has ended."),
}
_STATUSES = ("done", "reused", "failed", "not_run")


def write_metrics(path: Path, status: Mapping[str, object]) -> bool:
    """Replaces the file as a whole; False where it cannot be written, which stops no run."""
    if path.exists() and not path.is_file():
        return False
    with contextlib.suppress(OSError):
        replace_file(path, metrics_text(status).encode("utf-8", "replace"), durable=False)
        return True
    return False


def metrics_text(status: Mapping[str, object]) -> str:
    """The figures of a status (see `StatusFile`)."""
    return "".join(_lines(status))


def _lines(status: Mapping[str, object]) -> Iterator[str]:
    labels = {name: status.get(name, "") for name in ("run_id", "manifest", "state")}
    yield _head("run_info", "The run that goes on, or the last one.")
    yield _sample("run_info", labels, 1)
    yield _head("updated_timestamp_seconds", "When this file was written.")
    yield _sample("updated_timestamp_seconds", {}, round(time.time(), 3))
    for key, (name, meaning) in _GAUGES.items():
        value = status.get(key)
        if isinstance(value, int | float):
            yield _head(name, meaning)
            yield _sample(name, {}, value)
    jobs = status.get("jobs")
    if isinstance(jobs, list) and jobs:
        yield _head("entries", "Entries of a job by how they ended; open: not yet.")
        for job in jobs:
            counts = {each: job[f"num_{each}"] for each in _STATUSES}
            counts["open"] = job["num_items"] - sum(counts.values())
            for each, value in counts.items():
                yield _sample("entries", {"job": job["name"], "status": each}, value)


def _head(name: str, meaning: str) -> str:
    return f"# HELP thothy_batch_{name} {meaning}\n# TYPE thothy_batch_{name} gauge\n"


def _sample(name: str, labels: Mapping[str, object], value: float) -> str:
    inside = ",".join(f'{key}="{_escaped(str(text))}"' for key, text in labels.items())
    return (
        f"thothy_batch_{name}{{{inside}}} {value}\n" if inside else f"thothy_batch_{name} {value}\n"
    )


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
