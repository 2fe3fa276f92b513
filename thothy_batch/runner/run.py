"""One run: check, lock, prepare, compute what is missing, account, publish."""

import time
from collections.abc import Iterable
from contextlib import ExitStack
from datetime import datetime

from thothy_batch import __version__, faults
from thothy_batch.engine.client import EngineClient
from thothy_batch.engine.config import resolve_device
from thothy_batch.errors import LockedError, ThothyError
from thothy_batch.runner.accounting import Account
from thothy_batch.runner.assignment import Assignment, assign, request_keys
from thothy_batch.runner.attempts import Attempts
from thothy_batch.runner.closing import end_run, failure_reason
from thothy_batch.runner.entry import Entry
from thothy_batch.runner.event_log import EventLog
from thothy_batch.runner.ledger import Ledger
from thothy_batch.runner.locking import holder_of, locked
from thothy_batch.runner.night import JOB_STOPPED, Night
from thothy_batch.runner.opening import Setup, begin_run, look_again, open_night
from thothy_batch.runner.options import RunOptions
from thothy_batch.runner.outlook import Outlook, look_ahead, record_plan
from thothy_batch.runner.prepare import prepare
from thothy_batch.runner.progress import Forecast, Observer
from thothy_batch.runner.pulse import Pulse, StatusFile
from thothy_batch.runner.receipt import Receipt
from thothy_batch.runner.rendering import make_renderer
from thothy_batch.runner.stopping import StopNow
from thothy_batch.runner.summary import RunSummary
from thothy_batch.store.files import check_path, journal_folder
from thothy_batch.store.store import Store

# What is written as the reason of entries that a stop left: the contract knows no time_budget.
_WAITED_S = 5.0  # for the lock: inputs may have been replaced
_NOT_RUN_REASONS = {"time_budget": "deadline"}


def run_night(options: RunOptions, observer: Observer) -> RunSummary:
    """Does the night's work of a manifest; what is answered already is not computed again.

    Raises ManifestError and ModelError before anything starts, LockedError, and StoreError. An
    engine that dies, or a store that fails on the way and can still be told so, ends the run with
    everything finished so far kept: the summary then has the error.
    """
    run = open_night(options, observer)
    check_path(run.manifest.store)  # before the lock, which makes a folder beside the store
    with run.stopping.watching():
        try:
            return _locked_run(run)
        except StopNow:
            return _stopped_early(run)
        except LockedError as busy:
            if options.if_locked.action != "skip":
                raise
            message = f"skipped: {busy.message}"
            return RunSummary(run.manifest.store, status="skipped", messages=[message])


def _locked_run(run: Setup) -> RunSummary:
    store_path, note = run.manifest.store, run.observer.note
    holder = holder_of(run.run_id, run.manifest.path, run.started)
    device = resolve_device(run.spec.device)
    with ExitStack() as stack:
        with run.stopping.interruptible():
            stack.enter_context(locked(store_path, device, holder, run.options.if_locked, note))
            if time.monotonic() - run.began > _WAITED_S:
                look_again(run)
            run.observer.phase("opening the store")
            store = Store.open(store_path)
            stack.callback(store.close)
        for run_id in store.recovered.killed_runs:
            note(
                f"run {run_id} had not come to its end (killed, or its disk was full); "
                "what it had finished is in the store"
            )
        if lost := store.recovered.damaged_bytes:
            note(f"the journal had {lost:,} unreadable bytes: what stood there is computed again")
        log = EventLog(store_path, run.run_id)
        for run_id in store.recovered.killed_runs:
            log.write("run_killed", killed_run_id=run_id)
        log.write("run_started", manifest=run.manifest.path, pid=holder.pid, host=holder.host)
        status = StatusFile(
            store_path, run.run_id, run.manifest.path, run.started, log, run.manifest.metrics_path
        )
        status.write("preparing")
        try:
            summary = _run_locked(run, store, status)
        except StopNow:
            status.write("finished", status="stopped", exit_code=4)
            raise
        except ThothyError as error:
            status.write("finished", status="failed", exit_code=error.exit_code, error=str(error))
            raise
        status.write("finished", **summary.as_json())
        return summary


def _stopped_early(run: Setup) -> RunSummary:
    reason = run.stopping.reason
    message = (
        f"stopped by {run.stopping.signal_name or f'the {reason}'} before anything was computed; "
        "the same command starts it again"
    )
    return RunSummary(
        run.manifest.store,
        status="stopped",
        stop_reason=reason,
        exit_code=4,
        model=run.facts.name,
        messages=[message],
    )


def _run_locked(run: Setup, store: Store, status: StatusFile) -> RunSummary:
    assignment = _assign(run, store)
    account = Account.of(run.jobs, assignment.entries)
    keep_ids = run.manifest.output.token_ids
    ledger = Ledger(store, account, run.facts.name, keep_ids)
    # From here on a stop is an end that the history knows.
    begin_run(run, store, account, assignment.entries)
    ledger.open_with(assignment)
    store.tick()
    if not assignment.work:
        return _end(run, ledger, None, None)
    night: Night | None = None
    error: ThothyError | None = None
    try:
        if not run.stopping.reason:
            night = _start(run, ledger, status, assignment)
            night.run()
    except StopNow:
        pass
    except ThothyError as caught:
        error = caught
    finally:
        if night is not None:
            night.engine.close()
    _leave_open(run, ledger, assignment, night, error)
    return _end(run, ledger, night, error)


def _assign(run: Setup, store: Store) -> Assignment:
    """Everything rendered, tokenised, and looked up in the store."""
    run.observer.phase("reading and tokenising")
    with run.stopping.interruptible():
        entries = list(_prepared(run))
        run.observer.phase("looking up what is answered already")
        answers = {} if run.options.force else store.answers(request_keys(entries))
        return assign(
            entries,
            answers,
            run_seed=run.manifest.run.seed,
            retry_failed=run.options.retry_failed,
            force=run.options.force,
        )


def _prepared(run: Setup) -> Iterable[Entry]:
    def report(num: int) -> None:
        run.observer.phase(f"reading and tokenising: {num:,} entries")

    return prepare(run.manifest, run.jobs, run.setting, report=report)


def _start(run: Setup, ledger: Ledger, status: StatusFile, assignment: Assignment) -> Night:
    """The engine loaded and the night in its order."""
    run.observer.phase("planning")
    with run.stopping.interruptible():
        outlook = look_ahead(run, ledger.store, assignment.work)
    run.observer.phase(f"loading {run.facts.name}")
    status.write("loading", **ledger.account.as_json())
    log_path = journal_folder(run.manifest.store) / "engine.log"
    engine: EngineClient | None = None
    try:
        with run.stopping.interruptible():
            engine = run.options.start_engine(outlook.spec, log_path=log_path)
        return _begin(run, ledger, status, outlook, engine)
    except BaseException:
        if engine is not None:
            engine.close()
        raise


def _begin(
    run: Setup, ledger: Ledger, status: StatusFile, outlook: Outlook, engine: EngineClient
) -> Night:
    """What the engine turned out to be is recorded; nothing is submitted yet."""
    info = engine.info
    run.load_s = info.load_s
    ledger.store.update_run(
        {
            "model": {**info.model, "fingerprint": run.facts.fingerprint},
            "engine": {**info.engine, "order": outlook.order},
            "versions": {**info.versions, "thothy-batch": __version__},
            "load_s": info.load_s,
            "engine_ready_at": datetime.now().astimezone(),
        }
    )
    for text in info.notes:
        run.observer.note(text)
    outlook.settle(info)
    ahead = outlook.ahead
    record_plan(ledger.store, ahead)
    # What is refused comes last: the engine says so in its words.
    pending = [*ahead.work, *(work for work, _ in ahead.unfit)]
    forecast = Forecast.of(work.request for work in pending)
    night = Night(
        engine=engine,
        ledger=ledger,
        stopping=run.stopping,
        render=make_renderer(run.setting),
        grace_s=run.manifest.run.grace,
        pulse=Pulse(ledger.store, status, ledger.account, forecast, run.observer, run.began),
        note=run.observer.note,
        forecast=forecast,
        estimates=outlook.estimates,
        attempts=Attempts(
            run.manifest.run.seed,
            run.manifest.run.max_attempts,
            min(info.max_model_len, info.pool_tokens),
        ),
        log=status.log,
        receipt=Receipt(run.facts.work, info.engine.get("device_figures"), run.spec.block_size),
    )
    night.pending.extend(pending)
    run.observer.phase("computing")
    return night


def _leave_open(
    run: Setup,
    ledger: Ledger,
    assignment: Assignment,
    night: Night | None,
    error: ThothyError | None,
) -> None:
    """Entries without an answer were not run; the reason says why."""
    stop = _stop_reason(run, night)
    reason = failure_reason(error) if error is not None else _NOT_RUN_REASONS.get(stop, stop)
    for work in assignment.work:
        # It waited for another attempt. A stop keeps what can be used; without that, and after an
        # error, it is the next run's, which ends as if nothing had been.
        if night and error is None and work.best is not None and not work.is_rejected:
            night.settle(work)
        for entry in work.entries:
            if ledger.account.is_open(entry):
                stopped = ledger.account.job_of(entry).stopped
                ledger.not_run(entry, JOB_STOPPED if stopped else reason)


def _stop_reason(run: Setup, night: Night | None) -> str:
    return run.stopping.reason if night is None else night.stop_reason or night.late_reason


def _end(run: Setup, ledger: Ledger, night: Night | None, error: ThothyError | None) -> RunSummary:
    run.observer.phase("publishing")
    faults.at("run.end")
    return end_run(
        ledger,
        night,
        store_path=run.manifest.store,
        run_id=run.run_id,
        started=run.started,
        load_s=run.load_s,
        dtype=run.facts.dtype,
        stop_reason=_stop_reason(run, night),
        error=error,
    )
