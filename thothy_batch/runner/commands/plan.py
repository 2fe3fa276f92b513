"""The command `plan`: everything that can be known of a run without loading weights.

Writes nothing, except that rows left by a dead run are published.
"""

import os
from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from pathlib import Path

from thothy_batch.errors import EngineError, StoreError
from thothy_batch.kinds import TemplateProblem, render
from thothy_batch.manifest import load_manifest
from thothy_batch.plan import (
    RepeatedText,
    RequestStats,
    repeated_text,
    request_stats,
    sharing_stats,
)
from thothy_batch.records import FailureCode
from thothy_batch.runner.commands.plan_document import (
    costs_json,
    counts_json,
    engine_json,
    jobs_json,
    model_json,
    planned_exit_code,
    refused_json,
    requests_json,
    sharing_json,
)
from thothy_batch.runner.commands.plan_types import PlanDocument, PlanEstimate
from thothy_batch.runner.entries.entry import Entry
from thothy_batch.runner.entries.prepare import template_notes
from thothy_batch.runner.entries.rendering import RenderContext
from thothy_batch.runner.monitoring.dead_run import publish_leftovers
from thothy_batch.runner.monitoring.progress import Observer
from thothy_batch.runner.planning.engine_plan import EnginePlan
from thothy_batch.runner.planning.pipeline import (
    RunInputs,
    open_inputs,
    plan_engine,
    read_entries,
    sized_spec,
)
from thothy_batch.runner.planning.run_plan import RunPlan
from thothy_batch.runner.session.options import RunOptions
from thothy_batch.runner.work.assignment import Assignment, assign, request_keys
from thothy_batch.runner.work.pending_request import PendingRequest
from thothy_batch.store.queries import CachedResult, past_outputs, past_results, past_speed

# The source of a predicted speed, in words.
_SOURCES = {
    "calibrated": "this model's speed as measured on this machine",
    "device": "the limits of this machine, not measured with this model: "
    "thothy-batch doctor --model ID measures it",
}


@dataclass(slots=True)
class _Preview:
    """Examples and failures, collected while the entries stream by."""

    first_prompt: str = ""
    examples: dict[str, str] = field(default_factory=dict)  # code: first message
    failed: dict[str, Counter[str]] = field(default_factory=dict)  # job: code: how many

    def fail(self, entry: Entry, code: FailureCode, message: str) -> None:
        """Count an entry that cannot be used."""
        self.examples.setdefault(code.value, message)
        self.failed.setdefault(entry.job.name, Counter())[code.value] += 1

    def refuse(self, pending: PendingRequest, why: str) -> None:
        """Count the entries of a request that the pool can never hold."""
        for entry in pending.entries:
            self.fail(entry, FailureCode.PROMPT_TOO_LONG, why)


def plan_manifest(options: RunOptions, observer: Observer) -> PlanDocument:
    """The document of `plan --json`.

    Raises ManifestError and ModelError with everything that would keep a run from starting.
    """
    observer.phase("checking the manifest")
    started = datetime.now().astimezone()
    manifest = load_manifest(options.manifest, options.overrides, day=started.date())
    inputs = open_inputs(manifest, started=started, need_weights=False, phase=observer.phase)
    preview = _Preview()
    entries = _read_entries(inputs, preview, observer)
    observer.phase("looking up earlier results")
    cached, note = _cached_results(manifest.store, entries)
    assignment = assign(entries, cached or {}, run_seed=manifest.run.seed)
    observer.phase("planning")
    left_s = options.time_left_s(manifest)
    plan, problems = _plan(inputs, assignment, left_s, observer)
    run_plan, model, block_size = plan.run_plan, inputs.model_info, inputs.spec.block_size
    for pending, why in run_plan.unfit:
        preview.refuse(pending, why)
    stats = request_stats(
        [pending.request for pending in run_plan.pending],
        block_size=block_size,
        sharing=sharing_stats([], block_size=block_size, chains=run_plan.block_hashes),
    )
    job_fields = jobs_json(inputs.jobs, assignment, run_plan, plan.estimates, preview.failed)
    costs, cost_notes = costs_json(run_plan, _repeated_text(run_plan), job_fields)
    notes = [
        *problems,
        *manifest.notes,
        *cost_notes,
        *template_notes(inputs.render_context),
        *([note] if note else []),
        *(note for job in inputs.jobs for note in job.source.notes),
    ]
    counts = counts_json(assignment, run_plan, known=cached is not None)
    return {
        "exit_code": planned_exit_code(counts, can_start=not problems),
        "manifest": str(manifest.path),
        "store": str(manifest.store),
        "model": model_json(model),
        "engine": engine_json(plan.config, model, stats, run_plan),
        **counts,
        "jobs": job_fields,
        "requests": requests_json(stats),
        "sharing": sharing_json(run_plan),
        "costs": costs,
        "estimate": _estimate(inputs, stats, plan, left_s),
        "refused": refused_json(run_plan),
        "examples": preview.examples,
        "notes": notes,
        "first_prompt": preview.first_prompt,
    }


def _read_entries(inputs: RunInputs, preview: _Preview, observer: Observer) -> list[Entry]:
    """All entries, without the variables that they were rendered from."""
    entries = []
    for entry in read_entries(inputs, observer):
        if entry.code is not None:
            preview.fail(entry, entry.code, entry.message)
        elif not preview.first_prompt:
            preview.first_prompt = _prompt_text(entry, inputs.render_context)
        entry.variables = {}
        entries.append(entry)
    return entries


def _prompt_text(entry: Entry, context: RenderContext) -> str:
    """The prompt as the model sees it."""
    tokenizer = context.tokenizer_of(entry.job.index)
    if entry.job.kind.raw:
        decode = tokenizer.decode if tokenizer is not None else None
        return decode(entry.prompt_token_ids, skip_special=False) if decode else ""
    try:
        messages = render(entry.job.kind, 0, entry.variables).messages
    except TemplateProblem:
        return ""
    assert tokenizer is not None
    return tokenizer.render_chat(messages)


def _cached_results(
    store: Path, entries: list[Entry]
) -> tuple[dict[str, CachedResult] | None, str]:
    """The store's results by request key, or None and a note where it cannot be read."""
    if not os.path.exists(store):
        return {}, ""
    try:
        publish_leftovers(store)
        return past_results(store, request_keys(entries)), ""
    except StoreError as error:
        return None, f"earlier results are not known: {error.message}"


def _plan(
    inputs: RunInputs, assignment: Assignment, left_s: float | None, observer: Observer
) -> tuple[EnginePlan, list[str]]:
    """The plan for an engine started now, and notes on what would keep it from starting."""
    pending = assignment.pending
    plan_for = partial(
        plan_engine,
        pending=pending,
        history=_history(inputs),
        time_left=lambda: left_s,
        phase=observer.phase,
    )
    try:
        return plan_for(inputs), []
    except EngineError as error:
        # The run is shown as it would be with a pool that holds all of it.
        spec = sized_spec(inputs, pending)
        blocks = -(-max(spec.needed_tokens or 0, spec.longest_tokens or 0) // spec.block_size)
        large = replace(inputs, spec=replace(inputs.spec, num_blocks=2 * blocks + 1024))
        notes = [f"a run now would fail: {error.message}"] if pending else []
        return plan_for(large), notes


def _history(inputs: RunInputs) -> dict[str, list[int]]:
    """Output tokens of each job's earlier artifacts; empty where the store cannot be read."""
    store, jobs = inputs.manifest.store, [job.name for job in inputs.jobs]
    try:
        return past_outputs(store, jobs, inputs.model_info.name) if os.path.exists(store) else {}
    except StoreError:
        return {}


def _repeated_text(run_plan: RunPlan) -> RepeatedText:
    return repeated_text(
        [pending.request.prompt_token_ids for pending in run_plan.pending],
        run_plan.shared_lens,
        [pending.primary.job.name for pending in run_plan.pending],
    )


def _estimate(
    inputs: RunInputs, stats: RequestStats, plan: EnginePlan, left_s: float | None
) -> PlanEstimate:
    """Seconds of engine time: by the cost model, else at the speed of the store's last runs."""
    prediction, known, name = plan.run_plan.prediction, plan.known_speed, inputs.model_info.name
    if prediction is not None and known is not None:
        seconds, outputs = prediction.seconds, prediction.simulated.output_tokens
        return {
            "seconds": round(seconds, 2),
            "output_tokens_per_s": round(outputs / seconds, 1) if seconds else None,
            "output_tokens": outputs,
            "source": known.source,
            "reason": _SOURCES[known.source],
            "time_left_s": left_s,
        }
    store = inputs.manifest.store
    try:
        speed = past_speed(store, name) if os.path.exists(store) else None
    except StoreError:
        speed = None
    if speed is None:
        return {
            "seconds": None,
            "output_tokens_per_s": None,
            "output_tokens": None,
            "source": None,
            "reason": f"unknown: the store has no run with {name} to go by, and nothing was "
            "measured while this machine was quiet",
            "time_left_s": left_s,
        }
    return {
        "seconds": round(stats.output.total / speed, 1),
        "output_tokens_per_s": round(speed, 1),
        "output_tokens": stats.output.total,
        "source": "store",
        "reason": "the speed of this store's last runs; every output as long as allowed",
        "time_left_s": left_s,
    }
