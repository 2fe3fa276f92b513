"""Builds the document of `plan --json`."""

from collections import Counter
from dataclasses import dataclass, field
from typing import cast

from thothy_batch.engine.core import EngineConfig, Limits, blocks_needed
from thothy_batch.engine.cost import capacity_table
from thothy_batch.engine.model_info import ModelInfo
from thothy_batch.errors import EngineError
from thothy_batch.plan import LengthStats, OutputEstimates, RepeatedText, RequestStats
from thothy_batch.runner.commands.plan_types import (
    LengthsDocument,
    PlanCosts,
    PlanCounts,
    PlanEngine,
    PlanJob,
    PlanModel,
    PlanSharing,
    RefusedEntry,
    RequestsDocument,
    WindowGain,
)
from thothy_batch.runner.entries.job import Job
from thothy_batch.runner.planning.run_plan import RunPlan
from thothy_batch.runner.work.assignment import Assignment

# Repeated text below this share of the prompt tokens is not worth a note, nor a job below this
# share of the predicted time.
_NOTED_REPEATS = 0.1
_NOTED_JOB_SHARE = 0.5


def model_json(model: ModelInfo) -> PlanModel:
    """The model, as far as it is known without its weights."""
    return {
        "name": model.name,
        "commit": model.commit,
        "dtype": model.dtype,
        "quantization": model.quantization,
        "fingerprint": model.fingerprint,
        "max_model_len": model.max_model_len,
        "vocab_size": model.vocab_size,
        "has_chat_template": model.tokenizer is not None and model.tokenizer.has_chat_template,
    }


def engine_json(
    config: EngineConfig, model: ModelInfo, stats: RequestStats, run_plan: RunPlan
) -> PlanEngine:
    """The engine that a run would start now, and its use of the KV pool."""
    wanted = -(-stats.needed_tokens // config.block_size)
    per_block = config.block_size * model.kv_bytes_per_token
    simulated = run_plan.prediction.simulated if run_plan.prediction else None
    limits, requests = Limits.of(config), [*run_plan.pending, *(each for each, _ in run_plan.unfit)]
    largest = max((blocks_needed(each.request, limits) for each in requests), default=0)
    return {
        "device": config.device,
        "impl": config.impl,
        "threads": config.threads,
        "block_size": config.block_size,
        "num_blocks": config.num_blocks,
        "pool_bytes": config.num_blocks * per_block,
        "pool_blocks": wanted,
        "peak_blocks": simulated.peak_blocks if simulated else None,
        "peak_running": simulated.peak_running if simulated else None,
        "max_seqs": config.max_seqs,
        "max_step_tokens": config.max_step_tokens,
        "largest_request_blocks": largest,
        "capacity": _capacity(config, stats),
    }


def _capacity(config: EngineConfig, stats: RequestStats) -> list[WindowGain] | None:
    """Sequences that fit where layers have windows, relative to full attention in every layer."""
    if all(group.window is None for group in config.layout.groups):
        return None
    longest = max(1, stats.longest_tokens)
    contexts = sorted({min(c, config.max_model_len) for c in (1024, 3072, 8192, 32768, longest)})
    return [
        {"context": row.context, "gain": round(row.gain, 3)}
        for row in capacity_table(config.layout.groups, contexts)
    ]


def sharing_json(run_plan: RunPlan) -> PlanSharing:
    """Prompt tokens that the engine will compute once for several requests."""
    plan, planned = run_plan.plan, run_plan.planned_prompt_tokens
    prompt_tokens = plan.prompt_tokens
    return {
        "prompt_tokens": prompt_tokens,
        "unique_prompt_tokens": plan.unique_prompt_tokens,
        "planned_prompt_tokens": planned,
        "planned_fraction": (
            round(planned / prompt_tokens, 4) if planned is not None and prompt_tokens else None
        ),
        "num_prefixes": plan.num_prefixes,
        "num_levels": plan.num_levels,
    }


def counts_json(assignment: Assignment, run_plan: RunPlan, *, known: bool) -> PlanCounts:
    """Counts every entry once. `known`: the store could be read."""
    unfit = sum(len(pending.entries) for pending, _ in run_plan.unfit)
    return {
        "num_items": len(assignment.entries),
        "num_failed": len(assignment.failed) + unfit,
        "num_failed_before": len(assignment.failed_before) if known else None,
        "num_already_done": len(assignment.reused) if known else None,
        "num_duplicates": sum(len(pending.entries) - 1 for pending in run_plan.pending),
        "num_to_compute": len(run_plan.pending),
    }


def planned_exit_code(counts: PlanCounts, *, can_start: bool) -> int:
    """The exit code of a run in which every request is computed."""
    if not can_start:
        return EngineError.exit_code
    return 1 if counts["num_failed"] or counts["num_failed_before"] else 0


def refused_json(run_plan: RunPlan) -> list[RefusedEntry]:
    """Entries that the pool cannot hold; the message names the smallest pool that would."""
    return [
        {
            "job": entry.job.name,
            "item_id": entry.item_id,
            "variant": entry.variant,
            "message": why,
        }
        for pending, why in run_plan.unfit
        for entry in pending.entries
    ]


@dataclass(slots=True)
class _JobTally:
    """Sums over the entries and requests of one job."""

    num_items: int = 0
    num_already_done: int = 0
    num_failed_before: int = 0
    num_duplicates: int = 0
    prompt_lens: list[int] = field(default_factory=list)
    shared_tokens: int = 0


def jobs_json(
    jobs: list[Job],
    assignment: Assignment,
    run_plan: RunPlan,
    estimates: OutputEstimates,
    failed: dict[str, Counter[str]],
) -> list[PlanJob]:
    """One object per job, in the manifest's order."""
    tallies = [_JobTally() for _ in jobs]
    for entry in assignment.entries:
        tallies[entry.job.index].num_items += 1
    for entry, _ in assignment.reused:
        tallies[entry.job.index].num_already_done += 1
    for entry, _ in assignment.failed_before:
        tallies[entry.job.index].num_failed_before += 1
    for pending, shared_len in zip(run_plan.pending, run_plan.shared_lens, strict=True):
        tally = tallies[pending.primary.job.index]
        tally.prompt_lens.append(len(pending.request.prompt_token_ids))
        tally.shared_tokens += shared_len
        for copy in pending.entries[1:]:
            tallies[copy.job.index].num_duplicates += 1
    return [
        _job_json(job, tallies[job.index], run_plan, estimates, dict(failed.get(job.name, {})))
        for job in jobs
    ]


def _job_json(
    job: Job,
    tally: _JobTally,
    run_plan: RunPlan,
    estimates: OutputEstimates,
    failed: dict[str, int],
) -> PlanJob:
    part = run_plan.prediction.jobs.get(job.name) if run_plan.prediction else None
    return {
        "name": job.name,
        "kind": job.kind.name,
        "priority": job.settings.priority,
        "num_files": job.source.num_files,
        "num_rows": job.source.num_rows(),
        "num_items": tally.num_items,
        "num_already_done": tally.num_already_done,
        "num_failed_before": tally.num_failed_before,
        "num_duplicates": tally.num_duplicates,
        "num_to_compute": len(tally.prompt_lens),
        "failed": failed,
        "prompt_tokens": sum(tally.prompt_lens),
        "prompt": lengths_json(LengthStats.of(tally.prompt_lens)),
        "shared_prompt_tokens": tally.shared_tokens,
        "max_tokens": job.sampling.max_tokens,
        "expected_tokens": estimates.expected(job.name, job.sampling),
        "expected_from": estimates.source(job.name, job.sampling),
        "predicted_s": round(part.engine_s, 2) if part else None,
        "predicted_finish_s": round(part.finished_s, 2) if part else None,
    }


def costs_json(
    run_plan: RunPlan, repeats: RepeatedText, jobs: list[PlanJob]
) -> tuple[PlanCosts, list[str]]:
    """The most expensive parts of the manifest, as figures and as notes."""
    notes: list[str] = []
    prompt_tokens = run_plan.plan.prompt_tokens
    share = repeats.tokens / prompt_tokens if prompt_tokens else 0.0
    if share > _NOTED_REPEATS:
        worst = max(repeats.by_owner, key=lambda name: repeats.by_owner[name])
        notes.append(
            f"about {share:.0%} of the prompt tokens repeat text that other prompts have "
            f"elsewhere, most of it in job {worst!r}: only common prefixes are computed once, so "
            "put what prompts share (the document) before what differs (the instruction)"
        )
    seconds = {job["name"]: job["predicted_s"] or 0.0 for job in jobs}
    num_predicted = sum(job["predicted_s"] is not None for job in jobs)
    total = sum(seconds.values())
    if num_predicted > 1 and total:
        longest = max(seconds, key=lambda name: seconds[name])
        part = seconds[longest] / total
        if part > _NOTED_JOB_SHARE:
            notes.append(f"job {longest!r} takes {part:.0%} of the predicted time")
    return {"repeated_tokens": repeats.tokens, "repeated": repeats.by_owner}, notes


def requests_json(stats: RequestStats) -> RequestsDocument:
    """The statistics of the requests to compute."""
    return cast(RequestsDocument, stats.as_json())


def lengths_json(stats: LengthStats) -> LengthsDocument:
    """The statistics of one set of lengths."""
    return cast(LengthsDocument, stats.as_json())
