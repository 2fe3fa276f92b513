"""Everything that can be known of a night without loading weights.

Writes nothing but what a dead run left to be published.
"""

import os
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

from thothy_batch.engine.core.config import EngineConfig
from thothy_batch.engine.cost.known_speed import KnownSpeed
from thothy_batch.engine.model_info import ModelInfo, model_info
from thothy_batch.errors import EngineError, StoreError
from thothy_batch.kinds import TemplateProblem, render
from thothy_batch.manifest.settings import Manifest, load_manifest, to_engine_spec
from thothy_batch.plan import (
    RepeatedText,
    RequestStats,
    repeated_text,
    request_stats,
    sharing_stats,
)
from thothy_batch.records import EngineSpec, FailureCode
from thothy_batch.runner.commands.plan_document import (
    costs_json,
    counts_json,
    engine_json,
    jobs_json,
    model_json,
    refused_json,
    requests_json,
    sharing_json,
)
from thothy_batch.runner.commands.plan_types import PlanDocument, PlanEstimate
from thothy_batch.runner.entries.entry import Entry
from thothy_batch.runner.entries.job import Job, open_jobs
from thothy_batch.runner.entries.prepare import prepare, setting_of
from thothy_batch.runner.monitoring.progress import Observer
from thothy_batch.runner.planning.engine_plan import expected_config, sized_spec, speed_of
from thothy_batch.runner.planning.run_plan import RunPlan, build_run_plan, output_estimates
from thothy_batch.runner.session.options import RunOptions
from thothy_batch.runner.session.setup import time_left
from thothy_batch.runner.work.assignment import Assignment, PendingRequest, assign, request_keys
from thothy_batch.store.queries.read import past_answers, past_outputs, past_speed
from thothy_batch.store.queries.result_lookup import CachedResult
from thothy_batch.store.store import publish_if_free

# Where the speed of a prediction comes from.
_SOURCES = {
    "calibrated": "this model's speed as measured on this machine",
    "device": "the limits of this machine, not measured with this model: "
    "thothy-batch doctor --model ID measures it",
}


@dataclass(slots=True)
class _Preview:
    """What is collected while the entries stream by."""

    first_prompt: str = ""
    examples: dict[str, str] = field(default_factory=dict)  # code: first message
    failed: dict[str, Counter[str]] = field(default_factory=dict)  # job: code: how many

    def fail(self, entry: Entry, code: FailureCode, message: str) -> None:
        """An entry that cannot be used."""
        self.examples.setdefault(code.value, message)
        self.failed.setdefault(entry.job.name, Counter())[code.value] += 1

    def refuse(self, work: PendingRequest, why: str) -> None:
        """A request that the pool can never hold."""
        for entry in work.entries:
            self.fail(entry, FailureCode.PROMPT_TOO_LONG, why)


def plan_manifest(options: RunOptions, observer: Observer) -> PlanDocument:
    """The document of `plan --json`.

    Raises ManifestError and ModelError with everything that would keep a run from starting.
    """
    observer.phase("checking the manifest")
    manifest = load_manifest(options.manifest, options.overrides)
    jobs = open_jobs(manifest)
    spec = to_engine_spec(manifest)
    facts = model_info(spec, need_weights=False)
    preview = _Preview()
    entries = _entries(manifest, jobs, facts, spec, preview, observer)
    observer.phase("looking up what is answered already")
    answers, note = _answers(manifest.store, entries)
    assignment = assign(entries, answers or {}, run_seed=manifest.run.seed)
    observer.phase("planning")
    config, problems = _config(spec, facts, assignment)
    estimates = output_estimates(_history(manifest.store, jobs, facts.name), jobs)
    known = speed_of(facts, config)
    left_s = time_left(options, manifest)
    ahead = build_run_plan(
        assignment.work,
        manifest.engine.order,
        config=config,
        estimates=estimates,
        model=facts.work,
        known=known,
        time_left_s=left_s,
    )
    refused = refused_json(ahead)
    for work, why in ahead.unfit:
        preview.refuse(work, why)
    stats = request_stats(
        [work.request for work in ahead.work],
        block_size=spec.block_size,
        sharing=sharing_stats([], block_size=spec.block_size, chains=ahead.chains),
    )
    job_fields = jobs_json(jobs, assignment, ahead, estimates, preview.failed)
    costs, cost_notes = costs_json(ahead, _repeats(ahead), job_fields)
    return {
        "manifest": str(manifest.path),
        "store": str(manifest.store),
        "model": model_json(facts),
        "engine": engine_json(config, facts, stats, ahead),
        **counts_json(assignment, ahead, known=answers is not None),
        "jobs": job_fields,
        "requests": requests_json(stats),
        "sharing": sharing_json(ahead),
        "costs": costs,
        "estimate": _estimate(manifest.store, facts.name, stats, ahead, known, left_s),
        "refused": refused,
        "examples": preview.examples,
        "notes": [*problems, *cost_notes, *_notes(facts, jobs), *([note] if note else [])],
        "first_prompt": preview.first_prompt,
    }


def _config(
    spec: EngineSpec, facts: ModelInfo, assignment: Assignment
) -> tuple[EngineConfig, list[str]]:
    """The settings of an engine that would be started now; what keeps it from starting."""
    sized = sized_spec(spec, facts, assignment.work)
    try:
        return expected_config(sized, facts), []
    except EngineError as error:
        # The night is shown as it would be with a pool that takes all of it.
        blocks = -(-max(sized.needed_tokens or 0, sized.longest_tokens or 0) // spec.block_size)
        enough = replace(sized, num_blocks=2 * blocks + 1024)
        notes = [f"a run now would fail: {error.message}"] if assignment.work else []
        return expected_config(enough, facts), notes


def _repeats(ahead: RunPlan) -> RepeatedText:
    return repeated_text(
        [work.request.prompt_token_ids for work in ahead.work],
        ahead.shared_lens,
        [work.primary.job.name for work in ahead.work],
    )


def _entries(
    manifest: Manifest,
    jobs: list[Job],
    facts: ModelInfo,
    spec: EngineSpec,
    preview: _Preview,
    observer: Observer,
) -> list[Entry]:
    """All entries, without the texts that they were made of."""
    setting = setting_of(manifest, jobs, facts, spec)
    observer.phase("reading and tokenising")

    def report(num: int) -> None:
        observer.phase(f"reading and tokenising: {num:,} entries")

    entries = []
    for entry in prepare(manifest, jobs, setting, report=report):
        if entry.code is not None:
            preview.fail(entry, entry.code, entry.message)
        elif not preview.first_prompt:
            preview.first_prompt = _prompt_text(entry, facts)
        entry.variables = {}
        entries.append(entry)
    return entries


def _prompt_text(entry: Entry, facts: ModelInfo) -> str:
    """The prompt as the model sees it."""
    if entry.job.kind.raw:
        decode = facts.tokenizer.decode if facts.tokenizer is not None else None
        return decode(entry.prompt_token_ids, skip_special=False) if decode else ""
    try:
        messages = render(entry.job.kind, 0, entry.variables).messages
    except TemplateProblem:
        return ""
    assert facts.tokenizer is not None
    return facts.tokenizer.render_chat(messages)


def _answers(store: Path, entries: list[Entry]) -> tuple[dict[str, CachedResult] | None, str]:
    """What the store knows, and why it does not where it does not."""
    if not os.path.exists(store):
        return {}, ""
    try:
        publish_if_free(store)
        return past_answers(store, request_keys(entries)), ""
    except StoreError as error:
        return None, f"what is answered already is not known: {error.message}"


def _history(store: Path, jobs: list[Job], model_name: str) -> dict[str, list[int]]:
    """Output tokens of each job's earlier artifacts; nothing where the store cannot be read."""
    try:
        return (
            past_outputs(store, [j.name for j in jobs], model_name) if os.path.exists(store) else {}
        )
    except StoreError:
        return {}


def _estimate(
    store: Path,
    model_name: str,
    stats: RequestStats,
    ahead: RunPlan,
    known: KnownSpeed | None,
    left_s: float | None,
) -> PlanEstimate:
    """Seconds of engine time: by the cost model, else at the speed of the store's last runs."""
    if ahead.prediction is not None and known is not None:
        seconds = ahead.prediction.seconds
        outputs = ahead.prediction.simulated.output_tokens
        return {
            "seconds": round(seconds, 2),
            "output_tokens_per_s": round(outputs / seconds, 1) if seconds else None,
            "output_tokens": outputs,
            "source": known.source,
            "reason": _SOURCES[known.source],
            "time_left_s": left_s,
        }
    try:
        speed = past_speed(store, model_name) if os.path.exists(store) else None
    except StoreError:
        speed = None
    if speed is None:
        reason = f"the store has no run with {model_name} to go by, and nothing was measured"
        return {
            "seconds": None,
            "output_tokens_per_s": None,
            "output_tokens": None,
            "source": None,
            "reason": reason,
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


def _notes(facts: ModelInfo, jobs: list[Job]) -> list[str]:
    """What a user should know before the night."""
    rendered = any(not job.kind.raw for job in jobs)
    if rendered and facts.tokenizer is not None and not facts.tokenizer.has_chat_template:
        return [
            f"model {facts.name!r} has no chat template: system, document and instruction are "
            "joined by blank lines"
        ]
    return []
