"""What becomes of entries, written to the store and counted."""

from dataclasses import dataclass
from datetime import UTC, datetime

from thothy_batch.records import (
    Completion,
    FailureCode,
    FinishReason,
    ItemStatus,
    RequestFailure,
)
from thothy_batch.runner.entries.entry import Entry
from thothy_batch.runner.monitoring.run_metrics import RunMetrics
from thothy_batch.runner.work.assignment import Assignment, PendingRequest, entry_artifact_id
from thothy_batch.runner.work.counts import RunCounts
from thothy_batch.runner.work.retry_policy import Attempt
from thothy_batch.store.queries.result_lookup import CachedResult
from thothy_batch.store.store import Store

# Worst first.
_REASONS = (FinishReason.REPETITION, FinishReason.LENGTH, FinishReason.STOP)


@dataclass(slots=True)
class ResultWriter:
    """Writes each entry's end once."""

    store: Store
    account: RunCounts
    model_name: str
    keep_token_ids: bool
    metrics: RunMetrics

    def open_with(self, assignment: Assignment) -> None:
        """The entries that need no engine: unusable, answered before, failed before."""
        for entry in assignment.failed:
            assert entry.code is not None
            self._fail(entry, entry.code, entry.message)
        for entry, answer in assignment.reused:
            self._reuse(entry, answer)
        for entry, answer in assignment.failed_before:
            if (answer.job, answer.item_id, answer.variant) != (
                entry.job.name,
                entry.item_id,
                entry.variant,
            ):
                self._write_failure(entry, FailureCode(answer.code), answer.message, answer.attempt)
            self._settle(entry, ItemStatus.FAILED)

    def count_first(self, work: PendingRequest) -> None:
        """A request has its first answer, which counts for what is thought of its job."""
        assert work.best is not None
        count = self.account.job_of(work.primary)
        count.num_answered += 1
        count.num_rejected += work.is_rejected
        work.weighed = count if work.is_rejected else None

    def answer(self, work: PendingRequest) -> None:
        """A request came to its end: an artifact for each of its entries, or a failure."""
        cost, primary, best = work.cost, work.primary, work.best
        assert best is not None
        tokens = self.account.tokens
        if best.finished.failure:
            self._fail_all(
                work, FailureCode.INVALID_OUTPUT, best.finished.failure, work.last_attempt
            )
            return
        if work.weighed is not None:
            work.weighed.num_rejected -= 1
        tokens.prompt_tokens += cost.prompt_tokens
        tokens.cached_prompt_tokens += cost.cached_prompt_tokens
        tokens.output_tokens += cost.output_tokens
        made = self._write_artifact(work, best)
        flagged = best.finished.verdict != "ok" or bool(primary.flags)
        for number, entry in enumerate(work.entries):
            self.account.job_of(entry).num_flagged += flagged
            if number == 0:
                self._settle(entry, ItemStatus.DONE, artifact_id=made)
            else:
                self._copy(entry, made)

    def reject(self, work: PendingRequest, failure: RequestFailure) -> None:
        """The engine could not answer a request, or a later stage of it could not be asked."""
        if failure.code is FailureCode.ENGINE_ERROR or work.stage:
            count = self.account.job_of(work.primary)
            count.num_answered += 1
            count.num_rejected += 1
        if failure.code is FailureCode.PROMPT_TOO_LONG or not failure.is_certain:
            # For this night's pool, or engine: the next night looks again.
            for entry in work.entries:
                entry.request_key = ""
        self._fail_all(work, failure.code, failure.message, work.attempt)

    def not_run(self, entry: Entry, reason: str) -> None:
        """An entry whose turn did not come."""
        self._settle(entry, ItemStatus.NOT_RUN, reason=reason)

    def _fail_all(
        self, work: PendingRequest, code: FailureCode, message: str, attempt: int
    ) -> None:
        """Fails every entry of a request; what was computed for it is wasted, and counts once."""
        cost = work.cost
        lost = cost.prompt_tokens - cost.cached_prompt_tokens + cost.output_tokens
        for number, entry in enumerate(work.entries):
            wasted = cost.wasted_tokens + lost if number == 0 else 0
            self._fail(entry, code, message, attempt, wasted)

    def _fail(
        self,
        entry: Entry,
        code: FailureCode,
        message: str,
        attempt: int = 1,
        wasted_tokens: int = 0,
    ) -> None:
        self._write_failure(entry, code, message, attempt, wasted_tokens)
        self._settle(entry, ItemStatus.FAILED)

    def _write_failure(
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
                **_place(entry),
                "kind": entry.job.kind.name,
                "code": code.value,
                "message": message or code.value,
                "attempt": attempt,
                "request_key": entry.request_key or None,
                "wasted_tokens": wasted_tokens,
            },
        )

    def _reuse(self, entry: Entry, answer: CachedResult) -> None:
        own = entry_artifact_id(entry)
        self.account.job_of(entry).num_flagged += answer.verdict == "flagged"
        if own in answer.artifact_ids:
            self._settle(entry, ItemStatus.REUSED, artifact_id=own)
        else:
            self._copy(entry, answer.artifact_id)

    def _copy(self, entry: Entry, source: str) -> None:
        """An artifact of the same content for another entry."""
        own = entry_artifact_id(entry)
        row: dict[str, object] = {
            **_place(entry),
            "artifact_id": own,
            "kind": entry.job.kind.name,
            "request_key": entry.request_key,
        }
        self.store.add_copy(row, source)
        self._settle(entry, ItemStatus.REUSED, artifact_id=own)

    def _write_artifact(self, work: PendingRequest, best: Attempt) -> str:
        entry, cost, finished, completions = (
            work.primary,
            work.cost,
            best.finished,
            best.completions,
        )
        flags = [*finished.flags, *entry.flags]
        one_answer = len(completions) == 1 and work.stage == 0
        made = entry_artifact_id(entry)
        self.store.add(
            "artifacts",
            {
                **_place(entry),
                "artifact_id": made,
                "kind": entry.job.kind.name,
                "text": finished.text,
                "data": finished.data,
                "verdict": "flagged" if flags else "ok",
                "flags": flags,
                "finish_reason": worst_reason(completions).value,
                "prompt_tokens": cost.prompt_tokens,
                "cached_prompt_tokens": cost.cached_prompt_tokens,
                "output_tokens": cost.output_tokens,
                "output_token_ids": (
                    list(completions[0].token_ids) if self.keep_token_ids and one_answer else None
                ),
                "queue_s": cost.queue_s,
                "engine_s": cost.engine_s,
                "attempt": best.attempt,
                "request_key": entry.request_key,
                "model": self.model_name,
                "seed": best.request.seed,
                "created_at": datetime.now(UTC),
                "wasted_tokens": cost.wasted_tokens,
            },
        )
        return made

    def _settle(self, entry: Entry, status: ItemStatus, **more: object) -> None:
        self.account.record(entry, status)
        self.store.add("run_items", {**_place(entry), "status": status.value, **more})


def worst_reason(completions: tuple[Completion, ...]) -> FinishReason:
    """Of several samples the one that ended worst: repetition, then length, then stop."""
    found = {completion.finish_reason for completion in completions}
    return next(reason for reason in _REASONS if reason in found)


def _place(entry: Entry) -> dict[str, object]:
    return {"job": entry.job.name, "item_id": entry.item_id, "variant": entry.variant}
