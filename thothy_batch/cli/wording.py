"""What the commands print for people."""

from collections.abc import Mapping, Sequence
from typing import Any

from thothy_batch.cli.output import shown
from thothy_batch.report.figures import clock, count, duration, number_format, plain
from thothy_batch.runner.progress import Snapshot
from thothy_batch.runner.starter import Starter
from thothy_batch.runner.summary import RunSummary

__all__ = [
    "duration",
    "plan_text",
    "progress_line",
    "starter_text",
    "status_text",
    "summary_text",
]
Fields = Mapping[str, Any]
_SHOWN_REFUSED = 5


_STATES = {
    "restarting": "the engine is started anew",
    "stalled": "stalled: no step has ended for long",
}


def progress_line(snapshot: Snapshot) -> str:
    """One line of figures."""
    failed = sum(job.num_failed for job in snapshot.jobs)
    used = snapshot.blocks_used / snapshot.blocks_total if snapshot.blocks_total else 0.0
    parts = [
        f"{snapshot.num_settled:,} of {snapshot.num_items:,} entries",
        f"{failed:,} failed",
        f"{snapshot.output_tokens_per_s:,.0f} tokens/s",
        f"KV {used:.0%}",
        f"{snapshot.num_running:,} running",
        f"{snapshot.num_waiting:,} waiting",
    ]
    if snapshot.eta_s is not None:
        parts.append(f"about {duration(snapshot.eta_s)} left")
    if snapshot.state != "running":
        parts.append(_STATES.get(snapshot.state, snapshot.state))
    return ", ".join(parts)


def summary_text(summary: RunSummary) -> str:
    """The end of a run."""
    lines = [plain(message, 500) for message in summary.messages]
    if summary.run_id:  # else it stopped before it was entered
        lines += _run_lines(summary)
    return "\n".join(lines) + "\n"


def _run_lines(summary: RunSummary) -> list[str]:
    counts: Fields = summary.counts
    ended = f"run {summary.run_id} {summary.status}"
    ended += f" ({summary.stop_reason})" if summary.stop_reason else ""
    lines = [
        f"{ended}: {count(counts['num_done'])} done, {count(counts['num_reused'])} reused, "
        f"{count(counts['num_failed'])} failed, {count(counts['num_not_run'])} not run, "
        f"of {count(counts['num_items'])} entries",
        f"{count(summary.output_tokens)} tokens generated in {duration(summary.engine_s)} of "
        f"engine time ({duration(summary.wall_s)} in all)",
    ]
    if summary.output_tokens_per_s:
        lines[1] += f", {summary.output_tokens_per_s:,.1f} tokens/s"
    for job in summary.jobs if len(summary.jobs) > 1 else ():
        lines.append(_job_line(job))
    lines.append(f"store: {summary.store}")
    if counts["num_failed"] or counts["num_flagged"]:
        lines.append(f"what failed and why: thothy-batch report {summary.store}")
    return lines


def _job_line(job: Fields) -> str:
    parts = [f"  {plain(job['name'], 40)}: {count(job['num_done'])} done"]
    for name in ("reused", "failed", "not_run", "flagged"):
        if job[f"num_{name}"]:
            parts.append(f"{count(job[f'num_{name}'])} {name.replace('_', ' ')}")
    return ", ".join(parts)


def status_text(state: Fields) -> str:
    """What a store is doing."""
    if state["state"] == "running":
        lines = [
            f"running: {state['run_id']}, process {state['pid']} on {state['host']}, "
            f"since {clock(state['since'])}"
        ]
        progress = state["progress"]
        if progress:
            lines += _progress_lines(progress)
        return "\n".join(lines) + "\n"
    run = state["last_run"]
    if run is None:
        return "no run yet\n"
    why = f" ({run['stop_reason']})" if run.get("stop_reason") else ""
    lines = [
        f"last run {run['run_id']}: {run['status']}{why}, {clock(run.get('started_at'))}",
        f"{count(run.get('num_done'))} done, {count(run.get('num_reused'))} reused, "
        f"{count(run.get('num_failed'))} failed, {count(run.get('num_not_run'))} not run",
    ]
    if not state["published"]:
        lines.append("another program has the store open: some rows still wait in the journal")
    return "\n".join(lines) + "\n"


def _progress_lines(progress: Fields) -> list[str]:
    lines = [f"{progress['state']}, as of {clock(progress['updated_at'])}"]
    if "num_settled" not in progress:
        return lines
    lines.append(
        f"{count(progress['num_settled'])} of {count(progress['num_items'])} entries, "
        f"{progress['output_tokens_per_s']:,.0f} tokens/s"
    )
    if progress.get("eta_s") is not None:
        lines[-1] += f", about {duration(progress['eta_s'])} left"
    return lines + [_job_line(job) for job in progress["jobs"]]


def plan_text(plan: Fields) -> str:
    """A night before it is run."""
    model = plan["model"]
    lines = [
        f"model {plain(model['name'])} ({number_format(model)}, context "
        f"{count(model['max_model_len'])} "
        f"tokens); store {plain(plan['store'], 200)}",
        f"{count(plan['num_items'])} entries: {count(plan['num_to_compute'])} requests to compute, "
        f"{count(plan['num_duplicates'])} duplicates, {_done(plan)}, "
        f"{count(plan['num_failed'])} cannot be used",
    ]
    lines += [_plan_job(job) for job in plan["jobs"]]
    if plan["num_to_compute"]:
        lines += _night_lines(plan)
    lines += _refused(plan["refused"])
    lines += [f"{code}: {plain(message, 300)}" for code, message in plan["examples"].items()]
    lines += [f"note: {plain(note, 300)}" for note in plan["notes"]]
    if plan["first_prompt"]:
        lines += ["", "first prompt:", shown(plan["first_prompt"])]
    return "\n".join(lines) + "\n"


def _done(plan: Fields) -> str:
    done = plan["num_already_done"]
    return "answered before: not known" if done is None else f"{count(done)} answered before"


def _plan_job(job: Fields) -> str:
    failed = ", ".join(f"{count(num)} {code}" for code, num in job["failed"].items())
    line = (
        f"  {plain(job['name'], 40)} ({job['kind']}): {count(job['num_items'])} entries, "
        f"{count(job['num_to_compute'])} to compute"
    )
    if job["num_already_done"]:
        line += f", {count(job['num_already_done'])} answered before"
    if job["num_failed_before"]:
        line += f", {count(job['num_failed_before'])} failed before"
    if job["num_duplicates"]:
        line += f", {count(job['num_duplicates'])} duplicates"
    if job["num_to_compute"]:
        shared = job["shared_prompt_tokens"] / max(1, job["prompt_tokens"])
        line += f", {shared:.0%} of its prompts shared"
    if job["predicted_s"] is not None:
        line += f", about {duration(job['predicted_s'])}"
    return f"{line}; {failed}" if failed else line


def _sharing_line(sharing: Fields) -> str:
    total, planned = sharing["prompt_tokens"], sharing["planned_prompt_tokens"]
    if planned is None:
        unique = sharing["unique_prompt_tokens"]
        return (
            f"shared: at least {count(unique)} of {count(total)} prompt tokens have to be computed"
        )
    share = planned / total if total else 1.0
    return (
        f"shared: {count(planned)} of {count(total)} prompt tokens ({share:.1%}) are computed, the "
        "others are read from them"
    )


def _night_lines(plan: Fields) -> list[str]:
    """What is to be computed, and what that takes."""
    stats, engine = plan["requests"], plan["engine"]
    prompt = stats["prompt"]
    return [
        f"prompts: {count(prompt['total'])} tokens, median {count(prompt['p50'])}, "
        f"95% under {count(prompt['p95'])}, longest {count(prompt['max'])}",
        *_histogram(prompt["histogram"]),
        _sharing_line(plan["sharing"]),
        _pool_line(engine),
        *_capacity_lines(engine["capacity"]),
        _time_line(plan["estimate"]),
    ]


def _refused(rows: Sequence[Fields]) -> list[str]:
    """The first rows that no pool here can hold."""
    lines = []
    for row in rows[:_SHOWN_REFUSED]:
        variant = f" [{plain(row['variant'], 40)}]" if row["variant"] else ""
        place = f"{plain(row['job'], 40)} / {plain(row['item_id'], 60)}{variant}"
        lines.append(f"refused: {place}: {plain(row['message'], 300)}")
    if len(rows) > _SHOWN_REFUSED:
        lines.append(f"refused: and {count(len(rows) - _SHOWN_REFUSED)} more")
    return lines


def _pool_line(engine: Fields) -> str:
    line = (
        f"KV pool: {count(engine['num_blocks'])} blocks of {engine['block_size']} tokens; all at "
        f"once would need {count(engine['pool_blocks'])}, the largest request "
        f"{count(engine['largest_request_blocks'])}"
    )
    if engine["peak_blocks"] is not None:
        line += (
            f"; at most {count(engine['peak_blocks'])} in use, "
            f"{count(engine['peak_running'])} running"
        )
    return line


def _capacity_lines(capacity: Sequence[Fields] | None) -> list[str]:
    if capacity is None:
        return []
    gains = ", ".join(f"{row['gain']:.2f}x at {count(row['context'])}" for row in capacity)
    return [f"layers with a window keep no more than it: room for {gains} tokens of context"]


def _histogram(pairs: Sequence[Sequence[int]]) -> list[str]:
    most = max((num for _, num in pairs), default=0)
    return [
        f"  up to {bound:>7,}  {'#' * max(1, round(30 * num / most))} {num:,}"
        for bound, num in pairs
    ]


def _time_line(estimate: Fields) -> str:
    if estimate["seconds"] is None:
        return f"time: not known ({estimate['reason']})"
    speed, left = estimate["output_tokens_per_s"] or 0.0, estimate["time_left_s"]
    late = ""
    if left is not None and left < estimate["seconds"]:
        late = f"; only {duration(max(0.0, left))} are left: the rest waits for the next run"
    return (
        f"time: about {duration(estimate['seconds'])} of engine time for "
        f"{count(estimate['output_tokens'])} output tokens, {speed:,.0f} a second "
        f"({estimate['reason']}){late}"
    )


def starter_text(starter: Starter) -> str:
    """What `init` made, and what comes next."""
    files = "\n".join(f"  {path}" for path in starter.files)
    return (
        f"made\n{files}\nnext:\n  thothy-batch plan {starter.manifest}\n"
        f"  thothy-batch run {starter.manifest}\nevery night (crontab -e):\n  {starter.cron_line}\n"
    )
