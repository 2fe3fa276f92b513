"""The end of a run: counts, status, exit code, sentences, and the last write to the store."""

from datetime import datetime
from pathlib import Path

from thothy_batch.errors import StoreError, ThothyError
from thothy_batch.runner.loop.result_writer import ResultWriter
from thothy_batch.runner.loop.run_loop import RunLoop
from thothy_batch.runner.session.summary import RunSummary
from thothy_batch.runner.work.counts import RunCounts


def finish_run(
    ledger: ResultWriter,
    night: RunLoop | None,
    *,
    store_path: Path,
    run_id: str,
    started: datetime,
    load_s: float,
    dtype: str,
    stop_reason: str,
    error: ThothyError | None,
) -> RunSummary:
    """Judges the run and writes its end. `night`: None where the engine was not started.

    `stop_reason` says why it was stopped, "" where it was not.
    """
    account = ledger.account
    summary = RunSummary(store_path, run_id, model=ledger.model_name, error=error)
    summary.counts = account.as_json()
    summary.jobs = [count.as_json() for count in account.jobs]
    summary.prompt_tokens = account.tokens.prompt_tokens
    summary.cached_prompt_tokens = account.tokens.cached_prompt_tokens
    summary.output_tokens = account.tokens.output_tokens
    summary.load_s = load_s
    if night is not None:
        summary.engine_s = night.totals.engine_s
        summary.wasted_tokens = _wasted(account, night)
        summary.roofline_s = night.receipt.roofline_s(dtype)
    num_late = night.num_late if night is not None else 0
    _judge(account, stop_reason, num_late, summary)
    _say(account, summary, computed=night is not None)
    if num_late:
        summary.messages.append(
            f"{num_late:,} entries were not started: there was no time left to finish them"
        )
    summary.wall_s = (datetime.now().astimezone() - started).total_seconds()
    summary.published = ledger.store.end_run(
        {
            "status": summary.status,
            "stop_reason": summary.stop_reason or None,
            "exit_code": summary.exit_code,
            "engine_s": summary.engine_s,
            "load_s": summary.load_s,
            "wall_s": summary.wall_s,
            "wasted_tokens": summary.wasted_tokens,
            "roofline_fraction": summary.roofline_fraction,
            "computed_prompt_tokens": _first_prompt_tokens(night) if night is not None else 0,
        }
    )
    if not summary.published:
        summary.messages.append(
            "another program has the store open: the journal keeps what could not be published "
            "yet, and the next command that opens the store publishes it"
        )
    return summary


def _first_prompt_tokens(night: RunLoop) -> int:
    """Prompt tokens that were computed for the first time: what the plan is measured by."""
    totals = night.totals
    return totals.prefill_tokens - totals.repeated_prompt_tokens - night.repeated_prompt_tokens


def failure_reason(error: ThothyError) -> str:
    """What is written as the reason where an error ended the run."""
    return "store_failed" if isinstance(error, StoreError) else "engine_failed"


def _wasted(account: RunCounts, night: RunLoop) -> int:
    """Recomputed after preemption, and computed for the first time without an artifact to show.

    The latter: answers that were no good, and what a stop, of the run or of a job, dropped.
    """
    totals, tokens = night.totals, account.tokens
    kept = tokens.prompt_tokens - tokens.cached_prompt_tokens + tokens.output_tokens
    return totals.wasted_tokens + totals.prefill_tokens + totals.output_tokens - kept


def _judge(account: RunCounts, reason: str, num_late: int, summary: RunSummary) -> None:
    """Status and exit code."""
    stopped = num_late > 0 or any(count.num_not_run and not count.stopped for count in account.jobs)
    if summary.error is not None:
        summary.status, summary.exit_code = "failed", summary.error.exit_code
        summary.stop_reason = failure_reason(summary.error)
    elif not account.adds_up():
        summary.status, summary.exit_code = "failed", 5
        summary.stop_reason = "counts_do_not_add_up"
        summary.error = ThothyError(
            "the counts of this run do not add up: some entries ended in no way",
            hint="this is a fault of the program; the store keeps what was finished",
        )
    elif reason and stopped:
        summary.status, summary.stop_reason, summary.exit_code = "stopped", reason, 4
    elif account.total("num_failed") or account.total("num_not_run"):
        summary.exit_code = 1


def _say(account: RunCounts, summary: RunSummary, *, computed: bool) -> None:
    """Sentences for the user."""
    counts = summary.counts
    if counts["num_items"] == 0:
        summary.messages.append("nothing to do: the inputs have no rows")
    elif not computed and not counts["num_not_run"]:
        failed = f", {counts['num_failed']:,} failed" if counts["num_failed"] else ""
        summary.messages.append(
            f"nothing left to do: {counts['num_reused']:,} entries were answered before{failed}"
        )
    for count in account.jobs:
        if count.stopped:
            summary.messages.append(
                f"job {count.name!r} was stopped: too many of its answers were no good"
            )
    if summary.status == "stopped":
        left = f"{counts['num_not_run']:,} entries are left for the next run"
        summary.messages.append(f"stopped early ({summary.stop_reason}): {left}")
