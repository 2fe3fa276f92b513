"""Entries that are not computed: their job was stopped, or their deadline passed.

The decision about a pending request (`decide`) has no effects; `Cancellations` carries it out.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

from thothy_batch.runner.entries.entry import Entry
from thothy_batch.runner.loop.engine_feed import EngineFeed
from thothy_batch.runner.loop.result_writer import ResultWriter
from thothy_batch.runner.monitoring.progress import Forecast
from thothy_batch.runner.work.pending_request import PendingRequest

JOB_STOPPED = "job_stopped"
DEADLINE = "deadline"


class Action(Enum):
    """The next step of a pending request."""

    SUBMIT = auto()
    FINALIZE = auto()  # its best attempt so far is stored
    CANCEL = auto()  # no entry is left that wants its result


@dataclass(frozen=True, slots=True)
class Decision:
    """The next step of a pending request, and the entries that it drops with their reasons."""

    action: Action
    dropped: dict[Entry, str]
    past_deadline: bool  # of any of its entries, dropped or not


def decide(pending: PendingRequest, is_job_stopped: Callable[[Entry], bool]) -> Decision:
    """Decide whether a request is still to be submitted. Changes nothing."""
    reasons = {
        entry: reason
        for entry in pending.entries
        if (reason := _drop_reason(entry, is_job_stopped))
    }
    is_late = DEADLINE in reasons.values()
    none_left = len(reasons) == len(pending.entries)
    if not none_left:
        # The other entries wait for a better attempt, whose result all entries then share.
        dropped = {} if pending.is_storable else reasons
        return Decision(Action.SUBMIT, dropped, is_late)
    # A rejected request that ran out of time is left to the next run, which tries it again.
    if pending.best is not None and not (pending.is_rejected and is_late):
        return Decision(Action.FINALIZE, {}, is_late)
    return Decision(Action.CANCEL, reasons, is_late)


def _drop_reason(entry: Entry, is_job_stopped: Callable[[Entry], bool]) -> str:
    """The reason for which an entry is not computed any more; "": it is."""
    if is_job_stopped(entry):
        return JOB_STOPPED
    return DEADLINE if entry.job.is_past_deadline else ""


@dataclass(slots=True)
class Cancellations:
    """Records entries as not run, and counts those that ran out of time."""

    writer: ResultWriter
    feed: EngineFeed
    forecast: Forecast
    finalize: Callable[[PendingRequest], None]
    num_late: int = 0  # entries that were not started because they could not end in time
    late_reason: str = ""  # deadline | time_budget; "": no entry was late

    def apply(self, pending: PendingRequest, decision: Decision) -> None:
        """Carry out a decision, all but the submission."""
        if decision.past_deadline:
            self.late_reason = DEADLINE
        if decision.action is not Action.SUBMIT:
            self.forecast.drop(pending.request)
        if decision.action is Action.FINALIZE:
            self.finalize(pending)
            return
        for entry, reason in decision.dropped.items():
            self.num_late += reason == DEADLINE
            self.writer.write_not_run(entry, reason)
        if decision.dropped:
            pending.entries = [entry for entry in pending.entries if entry not in decision.dropped]
        if decision.action is Action.CANCEL:
            self.feed.cancel_planned(pending)

    def expire(self, pending: PendingRequest, run_end: tuple[float, str] | None) -> None:
        """End a request that the engine did not start because it could not finish in time.

        `run_end`: the run's own end and its name, see `StopConditions.next_end`.
        """
        self.forecast.drop(pending.request)
        own = pending.wanted_until(None)  # by the deadlines of its jobs
        is_run_end = run_end is not None and (own is None or run_end[0] <= own)
        self.late_reason = run_end[1] if run_end is not None and is_run_end else DEADLINE
        if pending.is_storable:
            self.finalize(pending)
            return
        self.num_late += len(pending.entries)
        for entry in pending.entries:
            self.writer.write_not_run(entry, DEADLINE)
