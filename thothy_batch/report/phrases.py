"""What a report says: how the run ended, what each failure code means, what to do about it."""

from collections.abc import Sequence

from thothy_batch.report.formatting import Fields, change, count, duration, sanitize

_ADVICE = {
    "invalid_input": "the rows have no usable text (null, empty, undecodable, or an id that stands "
    "twice): repair them in the source, the next run does just these",
    "template_error": "the kind's template could not be filled for these rows: check the columns "
    "of the manifest and the kind file",
    "prompt_too_long": "shorten the rows, lower max_tokens, set on_too_long, or raise kv_memory "
    "where it was the pool",
    "invalid_output": "the model's text failed the kind's checks: look at the messages, raise "
    "max_tokens if it was cut off, then run with --retry-failed",
    "engine_error": "the engine failed on these rows: run again with --retry-failed, and look "
    "into the log if they fail once more",
}

_STOP = {
    "deadline": "stopped for the deadline",
    "time_budget": "stopped for the time budget",
    "signal": "stopped by a signal",
    "killed": "killed: its process died",
}


def advice(code: str) -> str:
    """What to do about failures of this code."""
    return _ADVICE.get(code, "see the messages of these rows in the table failures")


def ending(run: Fields) -> str:
    """How the run ended, in words."""
    reason = sanitize(run["stop_reason"] or "")
    if run["status"] == "running":
        return "is running"
    if run["status"] == "completed":
        failed = run["num_failed"]
        return f"completed, {count(failed)} entries failed" if failed else "completed"
    other = f"{run['status']}: {reason}" if reason else str(run["status"])
    return _STOP.get(reason, other)


def next_step(run: Fields) -> str:
    """What the reader should do now; empty when there is nothing to do."""
    if run["status"] == "running" or not (run["num_not_run"] or run["status"] == "failed"):
        return ""
    left = f"{count(run['num_not_run'])} entries are left. " if run["num_not_run"] else ""
    return f"{left}Run the same command again: it does only what is missing."


def headline(run: Fields) -> str:
    """The first line: which run, how it ended, how long it took."""
    name = sanitize(run["name"] or "run")
    took = f" after {duration(run['wall_s'])}" if run["wall_s"] is not None else ""
    return f"{name} {sanitize(run['run_id'])}: {ending(run)}{took}"


def roofline(run: Fields) -> str:
    """How near a run came to the limits of its device; empty where that is not known."""
    fraction = run.get("roofline_fraction")
    return "" if fraction is None else f"{100 * fraction:.0f} %"


def prediction(run: Fields) -> str:
    """Predicted beside real engine time; empty where nothing was predicted."""
    predicted, took = run.get("predicted_s"), run["engine_s"]
    if predicted is None:
        return ""
    if not _ran_whole(run):  # what it was predicted for was not all done
        return f"{duration(predicted)} of engine time for all of it"
    off = f": {100 * abs(predicted - took) / took:.0f} % off" if took else ""
    return f"{duration(predicted)} of engine time, took {duration(took)}{off}"


def promise(run: Fields) -> str:
    """Prompt tokens as planned beside those computed; empty where they agree or are not known."""
    planned, computed = run.get("planned_prompt_tokens"), run.get("computed_prompt_tokens")
    if planned is None or computed is None or planned == computed or not _ran_whole(run):
        return ""
    more = f" ({change(computed / planned - 1)})" if planned else ""
    return f"{count(planned)} prompt tokens to compute, computed {count(computed)}{more}"


def _ran_whole(run: Fields) -> bool:
    return run["status"] == "completed" and not run["num_not_run"]


def any_known(rows: Sequence[Fields], name: str) -> bool:
    """Whether a column has something to show."""
    return any(row.get(name) is not None for row in rows)


def compared(nights: list[Fields]) -> Fields | None:
    """The reported run's row of `nights` where there are runs to compare it with."""
    newest = nights[0] if nights else None
    return newest if newest and newest["num_compared"] else None
