"""Text of `plan`."""

from collections.abc import Callable, Sequence

from rich.console import RenderableType

from thothy_batch.report import Column, FigureTable, Line, count, duration, number_format, sanitize
from thothy_batch.runner.commands import (
    LengthsDocument,
    PlanDocument,
    PlanEngine,
    PlanEstimate,
    PlanJob,
    PlanSharing,
    RefusedEntry,
    WindowGain,
)

_MAX_REFUSED = 5
_BAR_WIDTH = 30
# Of the first prompt, unless it is shown whole: what stands in its middle is the row's own text.
_PROMPT_LINES = 40
_LINE_CHARS = 400


def plan_blocks(plan: PlanDocument, *, full: bool = False) -> list[RenderableType]:
    """A run before it starts. `full`: with the whole of the first prompt."""
    model = plan["model"]
    reused = plan["num_already_done"]
    blocks: list[RenderableType] = [
        Line(
            f"model {sanitize(model['name'])} "
            f"({number_format(model['dtype'], model['quantization'])}, context "
            f"{count(model['max_model_len'])} tokens); store {sanitize(plan['store'], 200)}"
        ),
        Line(
            f"{count(plan['num_items'])} entries: {count(plan['num_to_compute'])} requests to "
            f"compute, {count(plan['num_duplicates'])} duplicates, "
            + ("reused: not known, " if reused is None else f"{count(reused)} reused, ")
            + f"{count(plan['num_failed'])} cannot be computed"
        ),
        *([_jobs(plan["jobs"])] if plan["jobs"] else []),
    ]
    if plan["num_to_compute"]:
        blocks += _work(plan)
    blocks += [Line(text) for text in _refused(plan["refused"])]
    blocks += [
        Line(f"{code}: {sanitize(message, 300)}") for code, message in plan["examples"].items()
    ]
    blocks += [Line(f"note: {sanitize(note, 300)}") for note in plan["notes"]]
    if plan["first_prompt"]:
        blocks += [
            Line(""),
            Line("first prompt:"),
            Line(
                plan["first_prompt"] if full else cut_prompt(plan["first_prompt"]),
                is_verbatim=True,
            ),
        ]
    return blocks + [Line(text) for text in _outcome(plan)]


def cut_prompt(prompt: str) -> str:
    """The beginning and the end of a prompt, and how much is left out between them."""
    lines = prompt.split("\n")
    num_left = len(lines) - _PROMPT_LINES
    if num_left > 1:  # a single line is shown rather than counted
        head, tail = lines[: _PROMPT_LINES // 2], lines[-_PROMPT_LINES // 2 :]
        lines = [*map(_cut_line, head), f"… {num_left:,} lines …", *map(_cut_line, tail)]
    else:
        lines = [_cut_line(line) for line in lines]
    text = "\n".join(lines)
    return text if text == prompt else f"{text}\n(cut: --full shows it whole)"


def _cut_line(line: str) -> str:
    num_left = len(line) - _LINE_CHARS
    if num_left <= 1:
        return line
    half = _LINE_CHARS // 2
    return f"{line[:half]} … {num_left:,} characters … {line[-half:]}"


def _outcome(plan: PlanDocument) -> list[str]:
    """The entries that a run cannot compute, in one sentence."""
    parts = []
    if plan["num_failed"]:
        total = count(plan["num_items"])
        parts.append(f"{count(plan['num_failed'])} of {total} entries cannot be computed")
    if before := plan["num_failed_before"]:
        parts.append(
            f"{count(before)} failed in an earlier run and are not tried again without "
            "--retry-failed"
        )
    if plan["exit_code"] > 1:
        parts.append("the engine cannot start (see the notes)")
    return [f"{'; '.join(parts)}: a run ends with exit code {plan['exit_code']}"] if parts else []


def _jobs(jobs: Sequence[PlanJob]) -> FigureTable:
    """One row a job; counts that are zero in every job have no column."""
    optional: list[tuple[str, Callable[[PlanJob], int]]] = [
        ("reused", lambda job: job["num_already_done"]),
        ("failed\nbefore", lambda job: job["num_failed_before"]),
        ("duplicates", lambda job: job["num_duplicates"]),
    ]
    counts = [(title, value) for title, value in optional if any(map(value, jobs))]
    codes = sorted({code for job in jobs for code in job["failed"]})
    has_files = any(job["num_files"] is not None for job in jobs)
    is_timed = any(job["predicted_s"] is not None for job in jobs)
    columns = [
        *(Column("job", 40), Column("kind", 16)),
        *([Column("files")] if has_files else []),
        *(Column("rows"), Column("entries"), Column("to\ncompute")),
        *(Column(title) for title, _ in counts),
        Column("prompt\nshared"),
        *([Column("predicted")] if is_timed else []),
        *(Column(code.replace("_", "\n", 1)) for code in codes),
    ]
    rows = [
        [
            sanitize(job["name"], 40),
            sanitize(job["kind"], 24),
            *([count(job["num_files"])] if has_files else []),
            count(job["num_rows"]),
            count(job["num_items"]),
            count(job["num_to_compute"]),
            *(count(value(job)) for _, value in counts),
            _shared(job),
            *([duration(job["predicted_s"])] if is_timed else []),
            *(count(job["failed"].get(code, 0)) for code in codes),
        ]
        for job in jobs
    ]
    return FigureTable(columns, rows)


def _shared(job: PlanJob) -> str:
    if not job["num_to_compute"]:
        return ""
    return f"{job['shared_prompt_tokens'] / max(1, job['prompt_tokens']):.0%}"


def _work(plan: PlanDocument) -> list[RenderableType]:
    """The requests to compute, and what they take."""
    prompt = plan["requests"]["prompt"]
    return [
        Line(
            f"prompts: {count(prompt['total'])} tokens, median {count(prompt['p50'])}, "
            f"95% under {count(prompt['p95'])}, longest {count(prompt['max'])}"
        ),
        _histogram(prompt),
        Line(_sharing(plan["sharing"])),
        Line(_pool(plan["engine"])),
        *_capacity(plan["engine"]["capacity"]),
        Line(_time(plan["estimate"])),
    ]


def _histogram(lengths: LengthsDocument) -> FigureTable:
    most = max((num for _, num in lengths["histogram"]), default=0)
    rows = [
        ["#" * max(1, round(_BAR_WIDTH * num / most)), f"{bound:,}", f"{num:,}"]
        for bound, num in lengths["histogram"]
    ]
    columns = (Column("", _BAR_WIDTH), Column("tokens\nup to"), Column("prompts"))
    return FigureTable(columns, rows)


def _sharing(sharing: PlanSharing) -> str:
    total, planned = sharing["prompt_tokens"], sharing["planned_prompt_tokens"]
    if planned is None:
        unique = sharing["unique_prompt_tokens"]
        return f"shared: at least {count(unique)} of {count(total)} prompt tokens to compute"
    share = planned / total if total else 1.0
    return (
        f"shared: {count(planned)} of {count(total)} prompt tokens ({share:.1%}) computed, the "
        "rest reused"
    )


def _pool(engine: PlanEngine) -> str:
    text = (
        f"KV pool: {count(engine['num_blocks'])} blocks of {engine['block_size']} tokens; all "
        f"requests at once would need {count(engine['pool_blocks'])}, the largest one "
        f"{count(engine['largest_request_blocks'])}"
    )
    if engine["peak_blocks"] is not None:
        text += (
            f"; at most {count(engine['peak_blocks'])} in use with "
            f"{count(engine['peak_running'])} requests running"
        )
    return text


def _capacity(capacity: Sequence[WindowGain] | None) -> list[RenderableType]:
    if capacity is None:
        return []
    gains = ", ".join(f"{row['gain']:.2f}x at {count(row['context'])}" for row in capacity)
    text = f"sliding-window layers keep only their window: room for {gains} tokens of context"
    return [Line(text)]


def _time(estimate: PlanEstimate) -> str:
    if estimate["seconds"] is None:
        return f"time: not known ({estimate['reason']})"
    speed, left_s = estimate["output_tokens_per_s"] or 0.0, estimate["time_left_s"]
    late = ""
    if left_s is not None and left_s < estimate["seconds"]:
        late = f"; only {duration(max(0.0, left_s))} left: the rest waits for the next run"
    return (
        f"time: about {duration(estimate['seconds'])} of engine time for "
        f"{count(estimate['output_tokens'])} output tokens, {speed:,.0f} a second "
        f"({estimate['reason']}){late}"
    )


def _refused(entries: Sequence[RefusedEntry]) -> list[str]:
    """The first entries that the KV pool can never hold."""
    lines = []
    for entry in entries[:_MAX_REFUSED]:
        variant = f" [{sanitize(entry['variant'], 40)}]" if entry["variant"] else ""
        place = f"{sanitize(entry['job'], 40)} / {sanitize(entry['item_id'], 60)}{variant}"
        lines.append(f"refused: {place}: {sanitize(entry['message'], 300)}")
    if len(entries) > _MAX_REFUSED:
        lines.append(f"refused: and {count(len(entries) - _MAX_REFUSED)} more")
    return lines
