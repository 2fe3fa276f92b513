"""Everything that can be known of a night without loading weights.

Writes nothing but what a dead run left to be published.
"""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from thothy_batch.engine.config import resolve_device, resolve_impl
from thothy_batch.engine.facts import ModelFacts, model_facts
from thothy_batch.errors import StoreError
from thothy_batch.kinds import TemplateProblem, render
from thothy_batch.manifest.settings import Manifest, load_manifest, to_engine_spec
from thothy_batch.plan import NightStats, chain_prompts, night_stats, sharing_stats
from thothy_batch.records import EngineSpec
from thothy_batch.runner.assignment import Assignment, assign, request_keys
from thothy_batch.runner.entry import Entry
from thothy_batch.runner.job import Job, open_jobs
from thothy_batch.runner.options import RunOptions
from thothy_batch.runner.prepare import prepare, setting_of
from thothy_batch.runner.progress import Observer
from thothy_batch.store.answers import Answer
from thothy_batch.store.read import past_answers, past_speed
from thothy_batch.store.store import publish_if_free


@dataclass(slots=True)
class _Preview:
    """What is collected while the entries stream by."""

    first_prompt: str = ""
    examples: dict[str, str] = field(default_factory=dict)  # code: first message
    failed: dict[str, Counter[str]] = field(default_factory=dict)  # job: code: how many


def plan_night(options: RunOptions, observer: Observer) -> dict[str, Any]:
    """The plan as plain values (the document of `plan --json`).

    Raises ManifestError and ModelError with everything that would keep a run from starting.
    """
    observer.phase("checking the manifest")
    manifest = load_manifest(options.manifest, options.overrides)
    jobs = open_jobs(manifest)
    spec = to_engine_spec(manifest)
    facts = model_facts(spec, need_weights=False)
    preview = _Preview()
    entries = _entries(manifest, jobs, facts, spec, preview, observer)
    observer.phase("looking up what is answered already")
    answers, note = _answers(manifest.store, entries)
    assignment = assign(entries, answers or {}, run_seed=manifest.run.seed)
    observer.phase("counting what prompts share")
    requests = [work.request for work in assignment.work]
    chains = chain_prompts([r.prompt_token_ids for r in requests], spec.block_size)
    sharing = sharing_stats([], block_size=spec.block_size, chains=chains)
    stats = night_stats(requests, block_size=spec.block_size, sharing=sharing)
    return {
        "manifest": str(manifest.path),
        "store": str(manifest.store),
        "model": _model_json(facts),
        "engine": _engine_json(spec, stats, facts),
        **_counts(assignment, known=answers is not None),
        "jobs": [_job_json(job, assignment, preview) for job in jobs],
        "requests": stats.as_json(),
        "estimate": _estimate(manifest.store, facts.name, stats),
        "examples": preview.examples,
        "notes": [*_notes(facts, jobs), *([note] if note else [])],
        "first_prompt": preview.first_prompt,
    }


def _entries(
    manifest: Manifest,
    jobs: list[Job],
    facts: ModelFacts,
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
            preview.examples.setdefault(entry.code.value, entry.message)
            codes = preview.failed.setdefault(entry.job.name, Counter())
            codes[entry.code.value] += 1
        elif not preview.first_prompt:
            preview.first_prompt = _prompt_text(entry, facts)
        entry.variables = {}
        entries.append(entry)
    return entries


def _prompt_text(entry: Entry, facts: ModelFacts) -> str:
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


def _answers(store: Path, entries: list[Entry]) -> tuple[dict[str, Answer] | None, str]:
    """What the store knows, and why it does not where it does not."""
    if not store.exists():
        return {}, ""
    try:
        publish_if_free(store)
        return past_answers(store, request_keys(entries)), ""
    except StoreError as error:
        return None, f"what is answered already is not known: {error.message}"


def _model_json(facts: ModelFacts) -> dict[str, object]:
    return {
        "name": facts.name,
        "commit": facts.commit,
        "dtype": facts.dtype,
        "fingerprint": facts.fingerprint,
        "max_model_len": facts.max_model_len,
        "vocab_size": facts.vocab_size,
        "has_chat_template": facts.tokenizer is not None and facts.tokenizer.has_chat_template,
    }


def _engine_json(spec: EngineSpec, stats: NightStats, facts: ModelFacts) -> dict[str, object]:
    blocks = -(-stats.needed_tokens // spec.block_size)
    device = resolve_device(spec.device)
    return {
        "device": device,
        "impl": resolve_impl(spec.impl, device),
        "block_size": spec.block_size,
        "num_blocks": spec.num_blocks,
        "pool_blocks": blocks,
        "pool_bytes": blocks * spec.block_size * facts.kv_bytes_per_token,
        "largest_request_blocks": -(-stats.longest_tokens // spec.block_size),
    }


def _counts(assignment: Assignment, *, known: bool) -> dict[str, object]:
    return {
        "num_items": len(assignment.entries),
        "num_failed": len(assignment.failed),
        "num_failed_before": len(assignment.failed_before) if known else None,
        "num_already_done": len(assignment.reused) if known else None,
        "num_duplicates": assignment.num_duplicates,
        "num_to_compute": len(assignment.work),
    }


def _job_json(job: Job, assignment: Assignment, preview: _Preview) -> dict[str, object]:
    computed = Counter(work.primary.job.index for work in assignment.work)
    return {
        "name": job.name,
        "kind": job.kind.name,
        "priority": job.settings.priority,
        "num_rows": job.source.num_rows(),
        "num_items": sum(1 for entry in assignment.entries if entry.job is job),
        "num_already_done": sum(1 for entry, _ in assignment.reused if entry.job is job),
        "num_failed_before": sum(1 for entry, _ in assignment.failed_before if entry.job is job),
        "num_to_compute": computed[job.index],
        "failed": dict(preview.failed.get(job.name, {})),
        "max_tokens": job.sampling.max_tokens,
    }


def _estimate(store: Path, model_name: str, stats: NightStats) -> dict[str, object]:
    """Seconds at the speed of the last runs; outputs counted at max_tokens."""
    try:
        speed = past_speed(store, model_name) if store.exists() else None
    except StoreError:
        speed = None
    if speed is None:
        reason = f"the store has no run with {model_name} to go by"
        return {"seconds": None, "output_tokens_per_s": None, "reason": reason}
    return {
        "seconds": round(stats.output.total / speed, 1),
        "output_tokens_per_s": round(speed, 1),
        "reason": "the speed of this store's last runs; every output as long as allowed",
    }


def _notes(facts: ModelFacts, jobs: list[Job]) -> list[str]:
    """What a user should know before the night."""
    rendered = any(not job.kind.raw for job in jobs)
    if rendered and facts.tokenizer is not None and not facts.tokenizer.has_chat_template:
        return [
            f"model {facts.name!r} has no chat template: system, document and instruction are "
            "joined by blank lines"
        ]
    return []
