"""The end of a run: counts, status, exit code, messages, and the last write to the store."""

from datetime import datetime

from thothy_batch.errors import ManifestError, StoreError, ThothyError
from thothy_batch.runner.loop.result_writer import ResultWriter
from thothy_batch.runner.loop.run_loop import RunLoop
from thothy_batch.runner.session.run_context import RunContext
from thothy_batch.runner.session.summary import RunSummary
from thothy_batch.runner.work.counts import RunCounts
from thothy_batch.store import Store


def finish_run(
    run: RunContext, writer: ResultWriter, loop: RunLoop | None, error: ThothyError | None
) -> RunSummary:
    """Determine how the run ended and write it. `loop` None: the engine was not started.

    A store that fails now ends the run as failed. Raises StoreError if it cannot even record that.
    """
    summary = _ended(run, loop, error)
    try:
        summary.published = writer.store.end_run(_end_row(summary, loop))
    except StoreError as failed:
        writer.uncount(writer.store.make_room())
        summary = _ended(run, loop, error or failed)
        summary.published = False
        writer.store.fail_run(_end_row(summary, loop))
        return summary
    if not summary.published:
        summary.messages.append(
            "another program has the store open: the journal keeps the unpublished rows, and "
            "the next command that opens the store publishes them"
        )
    elif writer.keep_token_ids:
        _add_token_id_message(run, writer.store, summary)
    return summary


def _ended(run: RunContext, loop: RunLoop | None, error: ThothyError | None) -> RunSummary:
    """The summary of a run by its counts so far."""
    num_late = loop.cancellations.num_late if loop is not None else 0
    summary = _summarize(run, loop, error)
    _set_status(run.counts, stop_reason(run, loop), num_late, summary)
    _add_messages(run.counts, summary, computed=loop is not None)
    if num_late:
        summary.messages.append(
            f"{num_late:,} entries were not started: there was no time left to finish them"
        )
    summary.wall_s = _wall_s(run)
    return summary


def end_unread(run: RunContext, error: ThothyError | None) -> dict[str, object]:
    """The end of a run whose entries never became known, which a stop (`error` None) or an error
    ended: the columns of `runs`, whose counts are 0."""
    summary = RunSummary(run.paths.store, run.run_id, model=run.inputs.model_info.name)
    if error is None:
        reason = run.stop_conditions.reason
        summary.status, summary.stop_reason, summary.exit_code = "stopped", reason, 4
    else:
        _set_failed(summary, error)
    summary.wall_s = _wall_s(run)
    return _end_row(summary, None)


def _wall_s(run: RunContext) -> float:
    return (datetime.now().astimezone() - run.started).total_seconds()


def _add_token_id_message(run: RunContext, store: Store, summary: RunSummary) -> None:
    """Say how many reused artifacts were made while the ids of their tokens were not asked for."""
    jobs = [j.name for j in run.inputs.jobs if len(j.kind.stages) <= 1 and j.num_samples == 1]
    if summary.counts["num_reused"] and (num := store.num_without_token_ids(run.run_id, jobs)):
        summary.messages.append(
            f"{num:,} reused artifacts have no output_token_ids: they were made while "
            "output.token_ids was off; --force computes them again"
        )


def _end_row(summary: RunSummary, loop: RunLoop | None) -> dict[str, object]:
    """The columns of `runs` that are known at the end; the store counts the others."""
    return {
        "run_id": summary.run_id,
        "status": summary.status,
        "stop_reason": summary.stop_reason or None,
        "exit_code": summary.exit_code,
        "engine_s": summary.engine_s,
        "load_s": summary.load_s,
        "wall_s": summary.wall_s,
        "wasted_tokens": summary.wasted_tokens,
        "roofline_fraction": summary.roofline_fraction,
        "computed_prompt_tokens": _first_prompt_tokens(loop) if loop is not None else 0,
    }


def stop_reason(run: RunContext, loop: RunLoop | None) -> str:
    """The condition that stopped the run, or kept entries from starting; "": none did."""
    if loop is None:
        return run.stop_conditions.reason
    return loop.stop_reason or loop.cancellations.late_reason


def failure_reason(error: ThothyError) -> str:
    """The stop reason of a run that an error ended."""
    if isinstance(error, ManifestError):  # an input that turns out to be damaged
        return "manifest_error"
    return "store_failed" if isinstance(error, StoreError) else "engine_failed"


def _summarize(run: RunContext, loop: RunLoop | None, error: ThothyError | None) -> RunSummary:
    counts = run.counts
    summary = RunSummary(
        run.paths.store,
        run.run_id,
        counts=counts.as_json(),
        jobs=[count.as_json() for count in counts.jobs],
        model=run.inputs.model_info.name,
        prompt_tokens=counts.tokens.prompt_tokens,
        cached_prompt_tokens=counts.tokens.cached_prompt_tokens,
        output_tokens=counts.tokens.output_tokens,
        load_s=run.load_s,
        error=error,
    )
    if loop is not None:
        summary.engine_s = loop.totals.engine_s
        summary.wasted_tokens = _wasted_tokens(counts, loop)
        summary.roofline_s = loop.results.roofline_receipt.roofline_s(run.inputs.model_info.dtype)
    return summary


def _first_prompt_tokens(loop: RunLoop) -> int:
    """Prompt tokens that were computed for the first time, to compare with the plan."""
    totals, retried = loop.totals, loop.results.repeated_prompt_tokens
    return totals.prefill_tokens - totals.repeated_prompt_tokens - retried


def _wasted_tokens(counts: RunCounts, loop: RunLoop) -> int:
    """Tokens recomputed after preemption, and tokens computed once that gave no artifact.

    The latter are rejected attempts, and running requests that a stop of the run or job dropped.
    """
    totals, tokens = loop.totals, counts.tokens
    kept = tokens.prompt_tokens - tokens.cached_prompt_tokens + tokens.output_tokens
    return totals.wasted_tokens + totals.prefill_tokens + totals.output_tokens - kept


def _set_status(counts: RunCounts, reason: str, num_late: int, summary: RunSummary) -> None:
    """Set status, stop reason and exit code."""
    stopped = num_late > 0 or any(count.num_not_run and not count.stopped for count in counts.jobs)
    if summary.error is not None:
        _set_failed(summary, summary.error)
    elif not counts.adds_up():
        summary.status, summary.exit_code = "failed", 5
        summary.stop_reason = "counts_do_not_add_up"
        summary.error = ThothyError(
            "the counts of this run do not add up: some entries have no recorded end",
            hint="this is an error in the program; the store keeps all finished rows",
        )
    elif reason and stopped:
        summary.status, summary.stop_reason, summary.exit_code = "stopped", reason, 4
    elif summary.counts["num_failed"] or summary.counts["num_not_run"]:
        summary.exit_code = 1


def _set_failed(summary: RunSummary, error: ThothyError) -> None:
    """End the run with an error."""
    summary.error, summary.status, summary.exit_code = error, "failed", error.exit_code
    summary.stop_reason = failure_reason(error)


def _add_messages(counts: RunCounts, summary: RunSummary, *, computed: bool) -> None:
    """Add the messages for the user."""
    totals = summary.counts
    if totals["num_items"] == 0:
        summary.messages.append("nothing to do: the inputs have no rows")
    elif not computed and not totals["num_not_run"]:
        failed = f", {totals['num_failed']:,} failed" if totals["num_failed"] else ""
        summary.messages.append(
            f"nothing left to do: {totals['num_reused']:,} entries were reused{failed}"
        )
    for count in counts.jobs:
        if count.stopped:
            summary.messages.append(
                f"job {count.name!r} was stopped: too many of its completions failed their checks"
            )
    if summary.status == "stopped":
        left = f"{totals['num_not_run']:,} entries are left for the next run"
        summary.messages.append(f"stopped early ({summary.stop_reason}): {left}")
