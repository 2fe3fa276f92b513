"""Assigns each entry to the result that it gets: cached, another entry's, or computed."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from thothy_batch.plan import artifact_id, row_seed
from thothy_batch.records import EntryKey, FailureCode, Request
from thothy_batch.runner.entries.entry import Entry
from thothy_batch.runner.work.pending_request import PendingRequest
from thothy_batch.store.queries import CachedResult


@dataclass(slots=True)
class Assignment:
    """The entries of a run by the source of their results."""

    entries: list[Entry]
    failed: list[Entry] = field(default_factory=list)  # unusable: found in this run
    reused: list[tuple[Entry, CachedResult]] = field(default_factory=list)
    failed_before: list[tuple[Entry, CachedResult]] = field(default_factory=list)
    pending: list[PendingRequest] = field(default_factory=list)  # to be computed
    # Code and message of an entry's last failure before this run.
    last_failures: Mapping[EntryKey, tuple[str, str]] = field(default_factory=dict)


def entry_artifact_id(entry: Entry) -> str:
    """The identity of the entry's artifact."""
    return artifact_id(entry.job.name, entry.item_id, entry.variant, entry.request_key)


def assign(
    entries: Iterable[Entry],
    cached: Mapping[str, CachedResult],
    *,
    run_seed: int,
    retry_failed: bool = False,
    force: bool = False,
) -> Assignment:
    """Split the entries. `cached`: the store's results by request key."""
    found = Assignment(entries=list(entries))
    by_key: dict[str, PendingRequest] = {}
    for entry in found.entries:
        result = None if force else cached.get(entry.request_key)
        if entry.code is not None:
            found.failed.append(entry)
        elif result is not None and not result.failed:
            found.reused.append((entry, result))
        elif result is not None and not retry_failed:
            found.failed_before.append((entry, result))
        elif entry.request_key in by_key:
            _join(by_key[entry.request_key], entry)
        else:
            pending = _new_request(len(found.pending), entry, run_seed, result)
            by_key[entry.request_key] = pending
            found.pending.append(pending)
    return found


def failed_keys(assignment: Assignment) -> Iterator[EntryKey]:
    """The entries that fail without an engine: unusable, or failed before."""
    yield from (entry.key for entry in assignment.failed)
    yield from (entry.key for entry, _ in assignment.failed_before)


def request_keys(entries: Iterable[Entry]) -> Iterator[str]:
    """The keys to look up in the store."""
    return (entry.request_key for entry in entries if entry.request_key)


def _join(pending: PendingRequest, entry: Entry) -> None:
    """Let an entry share the result of an equal request, at the higher priority of the two."""
    entry.prompt_token_ids = pending.primary.prompt_token_ids
    pending.entries.append(entry)
    request, job = pending.request, entry.job
    if job.settings.priority > request.priority:
        request = replace(request, priority=job.settings.priority)
    if job.ends_at is not None and job.ends_at < (request.ends_at or math.inf):
        request = replace(request, ends_at=job.ends_at)
    pending.request = request


def _new_request(
    request_id: int, entry: Entry, run_seed: int, failed: CachedResult | None
) -> PendingRequest:
    """`failed`: the entry's failure in an earlier run, after which this is the next attempt."""
    attempt, sampling, job = 1, entry.sampling, entry.job
    if failed is not None:
        attempt = failed.attempt + 1
        temperature = job.kind.retry_temperature
        is_rejected = failed.code == FailureCode.INVALID_OUTPUT
        if is_rejected and temperature is not None and sampling.temperature == 0:
            # Greedy decoding would repeat the same output.
            sampling = replace(sampling, temperature=temperature)
    seed = row_seed(run_seed, entry.sampling.seed, entry.request_key, attempt=attempt)
    request = Request(
        request_id=request_id,
        request_key=entry.request_key,
        prompt_token_ids=entry.prompt_token_ids,
        sampling=sampling,
        seed=seed,
        num_samples=entry.samples_of_stage(0),
        priority=job.settings.priority,
        ends_at=job.ends_at,
    )
    return PendingRequest(request, [entry], attempt)
