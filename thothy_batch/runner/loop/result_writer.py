"""Writes how each entry ended to the store, and counts it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from thothy_batch.records import (
    Completion,
    EntryKey,
    FailureCode,
    FinishReason,
    ItemStatus,
    RequestFailure,
)
from thothy_batch.runner.entries.entry import Entry
from thothy_batch.runner.monitoring.run_metrics import RunMetrics
from thothy_batch.runner.work.assignment import Assignment, entry_artifact_id
from thothy_batch.runner.work.counts import RunCounts
from thothy_batch.runner.work.pending_request import PendingRequest, computed_tokens
from thothy_batch.runner.work.retry_policy import Attempt
from thothy_batch.store import Store
from thothy_batch.store.queries import CachedResult

# Worst first.
_REASONS = (FinishReason.REPETITION, FinishReason.LENGTH, FinishReason.STOP)


@dataclass(slots=True)
class ResultWriter:
    """Writes each entry's end once."""

    store: Store
    counts: RunCounts
    model_name: str
    keep_token_ids: bool
    metrics: RunMetrics

    def write_assigned(self, assignment: Assignment) -> None:
        """Write the entries that need no engine: unusable, reused, failed before."""
        last = assignment.last_failures
        for entry in assignment.failed:
            assert entry.code is not None
            self._fail_again(entry, entry.code, entry.message, 1, last)
        for entry, cached in assignment.reused:
            self._reuse(entry, cached)
        for entry, cached in assignment.failed_before:
            code = FailureCode(cached.code)
            self._fail_again(entry, code, cached.message, cached.attempt, last)

    def count_first(self, pending: PendingRequest) -> None:
        """Count a request's first attempt, by which its job is judged."""
        assert pending.best is not None
        count = self.counts.job_of(pending.primary)
        count.num_completed += 1
        count.num_rejected += pending.is_rejected
        pending.counted_as_rejected = count if pending.is_rejected else None

    def write_result(self, pending: PendingRequest) -> None:
        """Write the best attempt: an artifact for each entry of the request, or a failure."""
        cost, primary, best = pending.cost, pending.primary, pending.best
        assert best is not None
        tokens = self.counts.tokens
        if best.output.failure:
            self._fail_all(
                pending, FailureCode.INVALID_OUTPUT, best.output.failure, pending.last_attempt
            )
            return
        if pending.counted_as_rejected is not None:
            pending.counted_as_rejected.num_rejected -= 1
        tokens.prompt_tokens += cost.prompt_tokens
        tokens.cached_prompt_tokens += cost.cached_prompt_tokens
        tokens.output_tokens += cost.output_tokens
        artifact = self._add_artifact(pending, best)
        flagged = best.output.verdict != "ok" or bool(primary.flags)
        verdict = "flagged" if flagged else "ok"
        for number, entry in enumerate(pending.entries):
            self.counts.job_of(entry).num_flagged += flagged
            if number == 0:
                self._record_end(entry, ItemStatus.DONE, artifact_id=artifact, verdict=verdict)
            else:
                self._copy(entry, artifact, verdict)

    def write_failure(self, pending: PendingRequest, failure: RequestFailure) -> None:
        """Write a request that the engine could not compute, or whose later stage could not be
        rendered."""
        if failure.code is FailureCode.ENGINE_ERROR or pending.stage:
            count = self.counts.job_of(pending.primary)
            count.num_completed += 1
            count.num_rejected += 1
        if failure.code is FailureCode.PROMPT_TOO_LONG or not failure.is_certain:
            # It holds for this run's pool or engine only: without a key the next run tries again.
            for entry in pending.entries:
                entry.request_key = ""
        self._fail_all(pending, failure.code, failure.message, pending.attempt)

    def write_not_run(self, entry: Entry, reason: str) -> None:
        """Write an entry that was not computed."""
        self._record_end(entry, ItemStatus.NOT_RUN, reason=reason)

    def count_not_run(self, entry: Entry) -> None:
        """Count an entry that was not computed, where the store can write no rows."""
        self.counts.record(entry, ItemStatus.NOT_RUN)

    def _fail_again(
        self,
        entry: Entry,
        code: FailureCode,
        message: str,
        attempt: int,
        last_failures: Mapping[EntryKey, tuple[str, str]],
    ) -> None:
        """Fail an entry that was not attempted. One row per attempt and entry: its last one stands
        where it says the same, or rows would pile up night after night."""
        if last_failures.get(entry.key) != (code.value, message or code.value):
            self._add_failure(entry, code, message, attempt)
        self._record_end(entry, ItemStatus.FAILED)

    def uncount(self, rows: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
        """Count what the store has no room for as not run, and its tokens as wasted."""
        for table, row in rows:
            if table == "run_items":
                status, flagged = ItemStatus(str(row["status"])), row.get("verdict") == "flagged"
                self.counts.uncount(str(row["job"]), status, flagged=flagged)
            elif table == "artifacts":
                tokens = self.counts.tokens
                tokens.prompt_tokens -= row["prompt_tokens"]
                tokens.cached_prompt_tokens -= row["cached_prompt_tokens"]
                tokens.output_tokens -= row["output_tokens"]

    def _fail_all(
        self, pending: PendingRequest, code: FailureCode, message: str, attempt: int
    ) -> None:
        """Fail every entry of a request. Its computed tokens are wasted, counted at the first."""
        wasted = pending.cost.wasted_tokens + computed_tokens(pending.cost)
        for number, entry in enumerate(pending.entries):
            self._fail(entry, code, message, attempt, wasted if number == 0 else 0)

    def _fail(
        self,
        entry: Entry,
        code: FailureCode,
        message: str,
        attempt: int = 1,
        wasted_tokens: int = 0,
    ) -> None:
        self._add_failure(entry, code, message, attempt, wasted_tokens)
        self._record_end(entry, ItemStatus.FAILED)

    def _add_failure(
        self,
        entry: Entry,
        code: FailureCode,
        message: str,
        attempt: int,
        wasted_tokens: int = 0,
    ) -> None:
        self.metrics.failures[code] += 1
        self.store.add(
            "failures",
            {
                **_key_columns(entry),
                "kind": entry.job.kind.name,
                "code": code.value,
                "message": message or code.value,
                "attempt": attempt,
                "request_key": entry.request_key or None,
                "wasted_tokens": wasted_tokens,
            },
        )

    def _reuse(self, entry: Entry, cached: CachedResult) -> None:
        own = entry_artifact_id(entry)
        # Artifacts of one key may differ in verdict: one was computed anew by --force.
        verdict = cached.verdicts.get(own, cached.verdict)
        self.counts.job_of(entry).num_flagged += verdict == "flagged"
        if own in cached.verdicts:
            self._record_end(entry, ItemStatus.REUSED, artifact_id=own, verdict=verdict)
        else:
            self._copy(entry, cached.artifact_id, verdict)

    def _copy(self, entry: Entry, source: str, verdict: str) -> None:
        """Write an artifact of the same content for another entry."""
        own = entry_artifact_id(entry)
        row: dict[str, object] = {
            **_key_columns(entry),
            "artifact_id": own,
            "kind": entry.job.kind.name,
            "request_key": entry.request_key,
        }
        self.store.add_copy(row, source)
        self._record_end(entry, ItemStatus.REUSED, artifact_id=own, verdict=verdict)

    def _add_artifact(self, pending: PendingRequest, best: Attempt) -> str:
        entry, cost, output = pending.primary, pending.cost, best.output
        flags = [*output.flags, *entry.flags]
        one_completion = len(best.completions) == 1 and pending.stage == 0
        keep_ids = self.keep_token_ids and one_completion
        artifact = entry_artifact_id(entry)
        self.store.add(
            "artifacts",
            {
                **_key_columns(entry),
                "artifact_id": artifact,
                "kind": entry.job.kind.name,
                "text": output.text,
                "data": output.data,
                "verdict": "flagged" if flags else "ok",
                "flags": flags,
                "finish_reason": worst_reason(best.completions).value,
                "prompt_tokens": cost.prompt_tokens,
                "cached_prompt_tokens": cost.cached_prompt_tokens,
                "output_tokens": cost.output_tokens,
                "output_token_ids": list(best.completions[0].token_ids) if keep_ids else None,
                "queue_s": cost.queue_s,
                "engine_s": cost.engine_s,
                "attempt": best.number,
                "request_key": entry.request_key,
                "model": self.model_name,
                "seed": best.request.seed,
                "created_at": datetime.now(UTC),
                "wasted_tokens": cost.wasted_tokens,
                "reasoning": pending.all_reasoning or None,
            },
        )
        return artifact

    def _record_end(self, entry: Entry, status: ItemStatus, **columns: object) -> None:
        self.counts.record(entry, status)
        self.store.add("run_items", {**_key_columns(entry), "status": status.value, **columns})


def worst_reason(completions: tuple[Completion, ...]) -> FinishReason:
    """The worst finish reason of several samples: repetition, then length, then stop."""
    found = {completion.finish_reason for completion in completions}
    return next(reason for reason in _REASONS if reason in found)


def _key_columns(entry: Entry) -> dict[str, object]:
    return {"job": entry.job.name, "item_id": entry.item_id, "variant": entry.variant}
