"""Ends the status and metrics files of a run whose process died, which still say `running`."""

import os
import socket
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

from thothy_batch.errors import LockedError, LockHolder, StoreBusyError, StoreError
from thothy_batch.records import EngineTotals, FailureCode
from thothy_batch.report import JobRow, ReportDocument
from thothy_batch.runner.monitoring.run_metrics import RunMetrics
from thothy_batch.runner.monitoring.status_document import StatusFileDocument
from thothy_batch.runner.work.count_document import JobDocument
from thothy_batch.store import (
    FileLock,
    lock_path,
    publish_if_free,
    read_status,
    status_path,
    write_status,
)

ENDED = ("finished", "killed")  # states after which a run writes no more
_COUNTS = ("num_items", "num_done", "num_failed", "num_reused", "num_not_run", "num_flagged")
_IDENTITY = ("run_id", "pid", "host", "manifest", "store", "started_at", "metrics_file")


def publish_leftovers(store: Path) -> bool:
    """Publish what a dead run left and rewrite its files; True if nothing is left.

    Does nothing while a run holds the store, or without write permission.
    """
    if not publish_if_free(store):
        return False
    if _is_open(read_status(status_path(store))):
        lock = FileLock(lock_path(store))
        try:
            with lock.acquire(LockHolder(os.getpid(), socket.gethostname()), patience_s=0.0):
                rewrite_files(store)
        except (LockedError, StoreError):
            pass  # a run began meanwhile and writes the files itself
    return True


def rewrite_files(store: Path) -> None:
    """Rewrite the files if the last run did not end them. The caller holds the store's lock."""
    status = read_status(status_path(store))
    if status is None or not _is_open(status):
        return
    try:
        report = _report(store, str(status["run_id"]))
    except StoreBusyError:
        return  # a reader is in the way: left to the next command
    ended = ended_status(cast(StatusFileDocument, status), report)
    write_status(status_path(store), dict(ended))
    if metrics_file := ended.get("metrics_file"):
        metrics = RunMetrics(Path(metrics_file))
        if report is not None:
            _count(metrics, report)
        metrics.write(ended)


def ended_status(
    status: StatusFileDocument, report: ReportDocument | None = None
) -> StatusFileDocument:
    """The status of a dead run, with the counts of its report; None: those it wrote last."""
    run = report["run"] if report is not None else None
    jobs = _jobs(report["jobs"]) if report is not None else status.get("jobs", [])
    ended = {name: status[name] for name in _IDENTITY if name in status}  # type: ignore[literal-required]
    reason = (run["stop_reason"] or "") if run is not None else "killed"
    ended |= {
        "state": "killed" if reason == "killed" else "finished",
        "updated_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "status": run["status"] if run is not None else "failed",
        "stop_reason": reason,
    }
    if run is not None and run["exit_code"] is not None:
        ended["exit_code"] = run["exit_code"]
    if jobs:
        ended |= {"jobs": jobs, **{name: sum(job[name] for job in jobs) for name in _COUNTS}}  # type: ignore[literal-required]
    return cast(StatusFileDocument, ended)


def _is_open(status: dict[str, object] | None) -> bool:
    """True if the status says that its run goes on."""
    return status is not None and "run_id" in status and status.get("state") not in ENDED


def _report(store: Path, run_id: str) -> ReportDocument | None:
    """The run in the store; None if it died before it was recorded. Raises StoreBusyError."""
    # Imported late: duckdb takes 0.25 s to import, and seldom is a run dead.
    from thothy_batch.store.queries import report_data

    try:
        return cast(ReportDocument, report_data(store, run_id))
    except StoreBusyError:
        raise
    except StoreError:
        return None


def _count(metrics: RunMetrics, report: ReportDocument) -> None:
    """Set the counters that the run's rows still tell."""
    run = report["run"]
    metrics.totals = EngineTotals(
        prefill_tokens=run.get("computed_prompt_tokens") or 0,
        cached_prompt_tokens=run["cached_prompt_tokens"] or 0,
        output_tokens=run["output_tokens"] or 0,
    )
    metrics.num_restarts = sum(each["event"] == "engine_died" for each in report["events"])
    for group in report["failures"]:
        metrics.failures[FailureCode(group["code"])] = group["num"]


def _jobs(rows: Iterable[JobRow]) -> list[JobDocument]:
    documents = []
    for row in rows:
        counts = {name: row.get(name) or 0 for name in _COUNTS}
        place = {"name": row["job"], "kind": row["kind"], "priority": row.get("priority") or 0}
        documents.append(cast(JobDocument, {**place, **counts, "stopped": False}))
    return documents
