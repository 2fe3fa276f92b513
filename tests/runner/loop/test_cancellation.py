"""Decisions about pending requests have no effects; carrying them out records each entry once."""

import time
from typing import Any

import pytest

from thothy_batch.kinds import ParsedOutput
from thothy_batch.manifest.settings import load_manifest
from thothy_batch.records import Completion, FinishReason, Request, RequestResult, Sampling
from thothy_batch.runner.entries.entry import Entry
from thothy_batch.runner.entries.job import open_jobs
from thothy_batch.runner.loop.cancellation import DEADLINE, JOB_STOPPED, Action, decide
from thothy_batch.runner.work.pending_request import PendingRequest
from thothy_batch.runner.work.retry_policy import Attempt


def attempt(*, failure: str = "") -> Attempt:
    completion = Completion((1,), "x", FinishReason.STOP)
    result = RequestResult(0, (completion,), 4, 0, 1, 0, 0.0, 0.1)
    request = Request(0, "key", (1, 2), Sampling())
    return Attempt(request, 1, result, ParsedOutput("x", failure=failure))


@pytest.fixture
def entries(project: Any) -> tuple[Entry, Entry]:
    """Two entries of equal content; the first one's job is past its deadline."""
    project.rows("rows.parquet", id=[1], prompt=["one"])
    job = "kind: raw, input: rows.parquet"
    project.jobs(f"name: late, {job}", f"name: open, {job}")
    late, still_open = open_jobs(load_manifest(project.manifest))
    late.deadline = time.time() - 1.0
    return Entry(late, "1"), Entry(still_open, "1")


def pending(*entries: Entry, best: Attempt | None = None) -> PendingRequest:
    return PendingRequest(Request(0, "key", (1, 2), Sampling()), list(entries), best=best)


def never(entry: Entry) -> bool:
    return False


def always(entry: Entry) -> bool:
    return True


def test_a_request_without_dropped_entries_is_submitted(entries: tuple[Entry, Entry]) -> None:
    decision = decide(pending(entries[1]), never)
    assert (decision.action, decision.dropped, decision.past_deadline) == (Action.SUBMIT, {}, False)


def test_a_late_entry_is_dropped_and_the_others_are_computed(
    entries: tuple[Entry, Entry],
) -> None:
    request = pending(*entries)
    decision = decide(request, never)
    assert decision.action is Action.SUBMIT
    assert decision.dropped == {entries[0]: DEADLINE}
    assert request.entries == list(entries), "a decision changes nothing"


def test_an_entry_that_has_a_result_waits_with_the_others_for_a_better_one(
    entries: tuple[Entry, Entry],
) -> None:
    decision = decide(pending(*entries, best=attempt()), never)
    assert (decision.action, decision.dropped, decision.past_deadline) == (Action.SUBMIT, {}, True)
    rejected = decide(pending(*entries, best=attempt(failure="it is empty")), never)
    assert rejected.dropped == {entries[0]: DEADLINE}


@pytest.mark.parametrize(
    ("failure", "is_stopped", "action"),
    [
        (None, never, Action.CANCEL),
        (None, always, Action.CANCEL),
        ("", never, Action.FINALIZE),
        ("", always, Action.FINALIZE),
        ("it is empty", always, Action.FINALIZE),  # the failure is the result
        ("it is empty", never, Action.CANCEL),  # out of time: the next run tries again
    ],
)
def test_a_request_without_open_entries_is_finalized_or_cancelled(
    entries: tuple[Entry, Entry], failure: str | None, is_stopped: Any, action: Action
) -> None:
    best = None if failure is None else attempt(failure=failure)
    decision = decide(pending(entries[0], best=best), is_stopped)
    assert decision.action is action
    reason = JOB_STOPPED if is_stopped is always else DEADLINE
    assert decision.dropped == ({entries[0]: reason} if action is Action.CANCEL else {})
