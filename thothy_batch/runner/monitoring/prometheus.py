"""Metrics of a run in Prometheus' text format, for the textfile collector of a node exporter.

Every name begins with `thothy_batch_`. Gauges show the run as it stands. Counters count from its
start: the next run begins at 0, which Prometheus takes for a reset.
"""

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from thothy_batch.records import FailureCode
from thothy_batch.runner.monitoring.run_metrics import DELAY_BOUNDS, RunMetrics

_PREFIX = "thothy_batch_"
_LAST_SUCCESS = f"{_PREFIX}last_success_timestamp_seconds"
_MAX_BYTES = 1 << 22  # of a file that can be an earlier run's
_GAUGES = {
    "elapsed_s": ("elapsed_seconds", "Seconds since the run began."),
    "eta_s": ("eta_seconds", "Seconds until the end, as expected now."),
    "num_running": ("running_requests", "Requests that are being computed."),
    "num_waiting": ("waiting_requests", "Requests that wait in the engine."),
    "blocks_used": ("kv_blocks_used", "Blocks of the KV pool in use."),
    "blocks_total": ("kv_blocks", "Blocks of the KV pool."),
    "output_tokens_per_s": ("output_tokens_per_second", "Output tokens a second, lately."),
    "exit_code": ("exit_code", "Exit code of the run, once it has ended."),
}
_STATUSES = ("done", "reused", "failed", "not_run")


def exposition(metrics: RunMetrics, status: Mapping[str, object]) -> bytes:
    """The text of the counts and of what the status file has."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_RunCollector(metrics, status))
    return generate_latest(registry)


def earlier_success(path: Path) -> float | None:
    """The time of the last success in the file of an earlier run; None if it has none."""
    # The file may be anything: the path is the user's.
    with contextlib.suppress(OSError, ValueError, LookupError):
        with path.open("rb") as file:
            text = file.read(_MAX_BYTES).decode()
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == _LAST_SUCCESS:
                    return float(sample.value)
    return None


@dataclass(frozen=True, slots=True, eq=False)  # the registry wants it hashable
class _RunCollector(Collector):
    """Turns a run's counts and status into the client library's metrics."""

    metrics: RunMetrics
    status: Mapping[str, object]

    def collect(self) -> Iterator[Metric]:
        yield from self._gauges()
        yield from self._counters()
        jobs = self.status.get("jobs")
        if isinstance(jobs, list):
            yield from _metrics_of_jobs(jobs)

    def _gauges(self) -> Iterator[Metric]:
        labels = ("run_id", "manifest", "state")
        info = _gauge("run_info", "The run that goes on, or the last one.", labels)
        info.add_metric([_label(self.status.get(name, "")) for name in labels], 1)
        yield info
        now = round(time.time(), 3)
        yield _gauge("updated_timestamp_seconds", "When this file was written.", value=now)
        for key, (name, meaning) in _GAUGES.items():
            value = self.status.get(key)
            if isinstance(value, int | float):
                yield _gauge(name, meaning, value=value)
        if self.metrics.last_success is not None:
            yield GaugeMetricFamily(
                _LAST_SUCCESS,
                "When a run last ended by itself (exit code 0 or 1).",
                value=self.metrics.last_success,
            )

    def _counters(self) -> Iterator[Metric]:
        totals = self.metrics.totals
        counts = {
            "prompt_tokens": ("Prompt tokens computed.", totals.prefill_tokens),
            "cached_prompt_tokens": (
                "Prompt tokens not computed: their KV was shared.",
                totals.cached_prompt_tokens,
            ),
            "output_tokens": ("Output tokens computed.", totals.output_tokens),
            "engine_restarts": (
                "Engines that died or hung, and were replaced where the run went on.",
                self.metrics.num_restarts,
            ),
        }
        for name, (meaning, value) in counts.items():
            yield CounterMetricFamily(_PREFIX + name, meaning, value=value)
        failures = CounterMetricFamily(
            f"{_PREFIX}failures", "Rows written to the table failures.", labels=["code"]
        )
        for code in FailureCode:
            failures.add_metric([code.value], self.metrics.failures[code])
        yield failures
        bounds = (*map(str, DELAY_BOUNDS), "+Inf")
        yield HistogramMetricFamily(
            f"{_PREFIX}queue_delay_seconds",
            "Seconds from engine ready to the first computed token of a request.",
            buckets=list(zip(bounds, accumulate(self.metrics.delays), strict=True)),
            sum_value=self.metrics.delay_sum_s,
        )


def _metrics_of_jobs(jobs: list[dict[str, Any]]) -> Iterator[Metric]:
    entries = _gauge(
        "entries", "Entries of a job by how they ended; open: not yet.", ("job", "status")
    )
    flagged = CounterMetricFamily(
        f"{_PREFIX}flagged", "Entries of a job whose artifact is flagged.", labels=["job"]
    )
    for job in jobs:
        name = _label(job["name"])
        counts = {each: job[f"num_{each}"] for each in _STATUSES}
        counts["open"] = job["num_items"] - sum(counts.values())
        for each, value in counts.items():
            entries.add_metric([name, each], value)
        flagged.add_metric([name], job["num_flagged"])
    yield entries
    yield flagged


def _gauge(
    name: str, meaning: str, labels: Sequence[str] | None = None, value: float | None = None
) -> GaugeMetricFamily:
    return GaugeMetricFamily(_PREFIX + name, meaning, value=value, labels=labels)


def _label(value: object) -> str:
    """The text of a label; a path that is not UTF-8 has `?` in place of the bytes."""
    return str(value).encode("utf-8", "replace").decode()
