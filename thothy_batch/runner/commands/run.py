"""The command `run`: check, lock, prepare, compute what is missing, count, publish."""

import time
from contextlib import ExitStack, suppress
from typing import Literal

from thothy_batch.errors import LockedError, ManifestError, ModelError, StoreError, ThothyError
from thothy_batch.logs import logged_run
from thothy_batch.runner.entries.entry import Entry
from thothy_batch.runner.loop.cancellation import JOB_STOPPED
from thothy_batch.runner.loop.finish import end_unread, finish_run, stop_reason
from thothy_batch.runner.loop.result_writer import ResultWriter
from thothy_batch.runner.loop.run_loop import RunLoop
from thothy_batch.runner.loop.start import start_loop
from thothy_batch.runner.monitoring.dead_run import rewrite_files
from thothy_batch.runner.monitoring.event_log import EventLog
from thothy_batch.runner.monitoring.progress import Observer
from thothy_batch.runner.monitoring.reporter import StatusFile
from thothy_batch.runner.monitoring.run_metrics import RunMetrics
from thothy_batch.runner.planning.pipeline import read_entries
from thothy_batch.runner.session.locking import holder_of, locked
from thothy_batch.runner.session.options import RunOptions
from thothy_batch.runner.session.run_context import RunContext
from thothy_batch.runner.session.setup import (
    begin_row,
    new_run_id,
    prepare_run,
    record_entries,
    reload_inputs,
    start_clocks,
)
from thothy_batch.runner.session.stop_conditions import StopNow
from thothy_batch.runner.session.summary import RunSummary
from thothy_batch.runner.work.assignment import Assignment, assign, failed_keys, request_keys
from thothy_batch.store import Store, check_path
from thothy_batch.testing import faults

_WAITED_S = 5.0  # for the lock: inputs may have been replaced
# Reasons of entries that a stop left: the contract has no time_budget there.
_NOT_RUN_REASONS = {"time_budget": "deadline"}


def run_manifest(options: RunOptions, observer: Observer) -> RunSummary:
    """Compute the entries of a manifest that the store does not have yet.

    Raises ManifestError and ModelError before anything starts, LockedError, and StoreError. An
    engine that dies, or a store that fails but can still record it, ends the run with everything
    finished so far kept: the summary then has the error.
    """
    run_id = new_run_id()
    with logged_run(run_id):
        run = prepare_run(options, observer, run_id)
        check_path(run.paths.store)  # before the lock, which makes a folder beside the store
        with run.stop_conditions.watching():
            return _run_or_skip(run)


def _run_or_skip(run: RunContext) -> RunSummary:
    try:
        return _run_locked(run)
    except StopNow:
        return _stopped_early(run)
    except LockedError as busy:
        if run.options.if_locked.action != "skip":
            raise
        return _summary(run, status="skipped", message=f"skipped: {busy.message}")


def _run_locked(run: RunContext) -> RunSummary:
    note, manifest_path = run.observer.note, run.inputs.manifest.path
    holder = holder_of(run.run_id, manifest_path, run.started)
    with ExitStack() as stack:
        with run.stop_conditions.interruptible():
            run.observer.phase("taking the lock")
            device, if_locked = run.inputs.spec.device, run.options.if_locked
            locks = locked(
                run.paths.lock,
                device,
                holder,
                if_locked,
                note,
                may_wait=lambda: not run.stop_conditions.reason,
            )
            stack.enter_context(locks)
        waited_s = time.monotonic() - run.began
        start_clocks(run)
        store = _open_store(run, has_waited=waited_s > _WAITED_S)
        stack.callback(store.close)
        rewrite_files(run.paths.store)
        log = EventLog(run.paths.event_log, run.run_id)
        _report_recovery(store, log, run.observer)
        log.write("run_started", manifest=manifest_path, pid=holder.pid, host=holder.host)
        status = StatusFile(
            run.paths, run.run_id, manifest_path, run.started, log, RunMetrics(run.paths.metrics)
        )
        status.write("preparing")
        try:
            summary = _run_in_store(run, store, status)
        except StopNow:
            status.write("finished", status="stopped", exit_code=4)
            raise
        except ThothyError as error:
            status.write("finished", status="failed", exit_code=error.exit_code, error=str(error))
            raise
        status.write("finished", **summary.as_json())
        return summary


def _open_store(run: RunContext, *, has_waited: bool) -> Store:
    """Open the store of a run that holds its lock. A run that ends here is in the history too, but
    for one whose error leaves no store."""
    try:
        with run.stop_conditions.interruptible():
            if has_waited:
                reload_inputs(run)
            run.observer.phase("opening the store")
            return Store.open(run.paths.store)
    except StopNow:
        _record_ended(run, None)
        raise
    except (ManifestError, ModelError) as error:
        if run.paths.store.exists():
            _record_ended(run, error)
        raise


def _record_ended(run: RunContext, error: ThothyError | None) -> None:
    with suppress(StoreError):  # what ended the run is reported
        Store.record_ended(run.paths.store, begin_row(run), end_unread(run, error))
        run.is_recorded = True


def _report_recovery(store: Store, log: EventLog, observer: Observer) -> None:
    """Report the runs that died, whose rows the store has published on opening."""
    for run_id in store.recovered.killed_runs:
        observer.note(
            f"run {run_id} did not end (killed, or its disk was full); "
            "its finished rows are in the store"
        )
        log.write("run_killed", killed_run_id=run_id)
    if lost := store.recovered.damaged_bytes:
        observer.note(f"the journal had {lost:,} unreadable bytes: those rows are computed again")


def _stopped_early(run: RunContext) -> RunSummary:
    stop = run.stop_conditions
    return _summary(
        run,
        status="stopped",
        stop_reason=stop.reason,
        exit_code=4,
        message=f"stopped by {stop.signal_name or f'the {stop.reason}'} before anything was "
        "computed; the same command starts it again",
    )


def _summary(
    run: RunContext,
    *,
    status: Literal["stopped", "skipped"],
    message: str,
    stop_reason: str = "",
    exit_code: int = 0,
) -> RunSummary:
    """The summary of a run that ended before its entries were counted."""
    return RunSummary(
        run.paths.store,
        run.run_id if run.is_recorded else "",
        status=status,
        stop_reason=stop_reason,
        exit_code=exit_code,
        jobs=[count.as_json() for count in run.counts.jobs],
        model=run.inputs.model_info.name,
        messages=[message],
    )


def _run_in_store(run: RunContext, store: Store, status: StatusFile) -> RunSummary:
    entries = _begin(run, store)
    keep_ids = run.inputs.manifest.output.token_ids
    writer = ResultWriter(store, run.counts, run.inputs.model_info.name, keep_ids, status.metrics)
    assignment = Assignment(entries)
    loop: RunLoop | None = None
    error: ThothyError | None = None
    try:
        assignment = _assign(run, store, entries)
        writer.write_assigned(assignment)
        store.tick()
        if assignment.pending and not run.stop_conditions.reason:
            loop = start_loop(run, writer, status, assignment)
            loop.run()
    except StopNow:
        pass
    except ThothyError as caught:
        error = caught
    finally:
        if loop is not None:
            loop.close()
    _end_open_entries(run, writer, assignment, loop, error)
    return _finish(run, writer, loop, error)


def _begin(run: RunContext, store: Store) -> list[Entry]:
    """Begin the run in the store's history, render and tokenise everything, and record the entries.

    Whatever ends the run before its entries are recorded is its recorded end.
    """
    try:
        store.begin_run(begin_row(run))
        run.is_recorded = True
        with run.stop_conditions.interruptible():
            entries = list(read_entries(run.inputs, run.observer))
        record_entries(run, store, entries)
    except StopNow:
        _end_unread(run, store, None)
        raise
    except ThothyError as error:
        _end_unread(run, store, error)
        raise
    return entries


def _end_unread(run: RunContext, store: Store, error: ThothyError | None) -> None:
    end = end_unread(run, error)
    with suppress(StoreError):  # what ended the run is reported
        if not isinstance(error, StoreError):
            with suppress(StoreError):
                store.end_run(end)
                return
        store.make_room()
        store.fail_run(end)


def _assign(run: RunContext, store: Store, entries: list[Entry]) -> Assignment:
    """Look everything up in the store."""
    with run.stop_conditions.interruptible():
        run.observer.phase("looking up earlier results")
        cached = {} if run.options.force else store.cached_results(request_keys(entries))
        retry_failed, force = run.options.retry_failed, run.options.force
        seed = run.inputs.manifest.run.seed
        found = assign(entries, cached, run_seed=seed, retry_failed=retry_failed, force=force)
        if not (retry_failed or force):  # which ask for a new attempt, and so for its row
            found.last_failures = store.last_failures(failed_keys(found))
        return found


def _end_open_entries(
    run: RunContext,
    writer: ResultWriter,
    assignment: Assignment,
    loop: RunLoop | None,
    error: ThothyError | None,
) -> None:
    """Record the entries without a result as not run, with the reason."""
    if isinstance(error, StoreError):  # rows of them may not fit; the store lists them by itself
        for entry in filter(writer.counts.is_open, assignment.entries):
            writer.count_not_run(entry)
        return
    stop = stop_reason(run, loop)
    reason = "engine_failed" if error is not None else _NOT_RUN_REASONS.get(stop, stop)
    for pending in assignment.pending:
        # It waited for another attempt. A stop keeps its best one if that passed the checks; a
        # rejected one, and every one after an error, is left to the next run.
        if loop is not None and error is None and pending.is_storable:
            loop.results.finalize(pending)
    for entry in filter(writer.counts.is_open, assignment.entries):
        stopped = writer.counts.job_of(entry).stopped
        writer.write_not_run(entry, JOB_STOPPED if stopped else reason)


def _finish(
    run: RunContext, writer: ResultWriter, loop: RunLoop | None, error: ThothyError | None
) -> RunSummary:
    run.observer.phase("publishing")
    faults.at("run.end")
    return finish_run(run, writer, loop, error)
