"""Sentences of the report: the end of the run, failure codes and what to do about them."""

from collections import Counter
from collections.abc import Sequence

from thothy_batch.report.document import EventRow, NightRow, RunRow
from thothy_batch.report.formatting import change, count, duration, sanitize

_ADVICE = {
    "invalid_input": "the rows have no usable text (null, empty, undecodable) or repeat an id: "
    "repair them in the source, and the next run computes only these",
    "template_error": "the kind's template could not be filled for these rows: check the columns "
    "of the manifest and the kind file",
    "prompt_too_long": "shorten the rows, lower max_tokens, set on_too_long, or raise kv_memory "
    "where the pool was too small",
    "invalid_output": "the model's text failed the kind's checks: look at the messages, raise "
    "max_tokens if it was cut off, then run with --retry-failed",
    "engine_error": "the engine failed on these rows: run again with --retry-failed, and look "
    "into the log if they fail once more",
}

_STOPS = {
    "deadline": "stopped at the deadline",
    "time_budget": "stopped at the time budget",
    "signal": "stopped by a signal",
    "killed": "killed: its process died",
}


def advice(code: str) -> str:
    """The next step for failures of this code."""
    return _ADVICE.get(code, "see the messages of these rows in the table failures")


def ending(run: RunRow) -> str:
    """The end of the run in words."""
    reason = sanitize(run["stop_reason"] or "")
    if run["status"] == "running":
        return "is running"
    if run["status"] == "completed":
        failed = run["num_failed"]
        return f"completed, {count(failed)} entries failed" if failed else "completed"
    other = f"{run['status']}: {reason}" if reason else str(run["status"])
    return _STOPS.get(reason, other)


def next_step(run: RunRow) -> str:
    """The reader's next step; empty where the run left nothing to do."""
    if run["status"] == "running" or not (run["num_not_run"] or run["status"] == "failed"):
        return ""
    left = f"{count(run['num_not_run'])} entries are left. " if run["num_not_run"] else ""
    return f"{left}Run the same command again: it computes only what is missing."


def headline(run: RunRow) -> str:
    """The first line: name and id of the run, its ending and duration."""
    name = sanitize(run["name"] or "run")
    took = f" after {duration(run['wall_s'])}" if run["wall_s"] is not None else ""
    return f"{name} {sanitize(run['run_id'])}: {ending(run)}{took}"


def roofline(run: RunRow | NightRow) -> str:
    """The share of the device's roofline that a run reached; empty where it is not known."""
    fraction = run.get("roofline_fraction")
    return "" if fraction is None else f"{100 * fraction:.0f} %"


def prediction(run: RunRow) -> str:
    """Predicted and measured engine time; empty where nothing was predicted."""
    predicted, took = run.get("predicted_s"), run["engine_s"]
    if predicted is None:
        return ""
    if not _ran_whole(run):  # the prediction was for all of it
        return f"{duration(predicted)} of engine time for all of it"
    off = f": {100 * abs(predicted - took) / took:.0f} % off" if took else ""
    return f"{duration(predicted)} of engine time, took {duration(took)}{off}"


def planned(run: RunRow) -> str:
    """Prompt tokens planned and computed; empty where they agree or are not known."""
    expected, computed = run.get("planned_prompt_tokens"), run.get("computed_prompt_tokens")
    if expected is None or computed is None or expected == computed or not _ran_whole(run):
        return ""
    more = f" ({change(computed / expected - 1)})" if expected else ""
    return f"{count(expected)} prompt tokens to compute, computed {count(computed)}{more}"


def _ran_whole(run: RunRow) -> bool:
    return run["status"] == "completed" and not run["num_not_run"]


def more_events(events: Sequence[EventRow], num_shown: int) -> str:
    """The events after the first `num_shown`, counted; empty where there are none."""
    left = events[num_shown:]
    if not left:
        return ""
    kinds = Counter(event.get("event") or "event" for event in left)
    counts = ", ".join(f"{count(num)} {sanitize(kind, 40)}" for kind, num in kinds.most_common())
    return f"and {count(len(left))} more events ({counts}); the table engine_events has all of them"


def compared(nights: Sequence[NightRow]) -> NightRow | None:
    """The reported run among `nights`; None where it has no earlier runs to compare with."""
    newest = nights[0] if nights else None
    return newest if newest and newest["num_compared"] else None
