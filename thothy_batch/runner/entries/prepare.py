"""Turns all items of a run into entries with prompts: streamed, with workers for large inputs."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from functools import partial
from itertools import chain, islice

from thothy_batch.engine.model_info import AnyTokenizer, ModelInfo
from thothy_batch.errors import ManifestError, ModelError
from thothy_batch.manifest import Manifest
from thothy_batch.model.tokenizer import ChatSettings
from thothy_batch.process import map_chunks
from thothy_batch.records import EngineSpec
from thothy_batch.runner.entries.entry import Entry, iter_entries
from thothy_batch.runner.entries.job import Job
from thothy_batch.runner.entries.rendering import (
    Draft,
    RenderContext,
    Rendered,
    make_renderer,
    make_worker,
)

# Below this many entries, starting worker processes takes longer than rendering in this one.
IN_PROCESS_LIMIT = 2_000
_CHUNK = 512
_MAX_WORKERS = 8

Report = Callable[[int], None]


def render_context(
    manifest: Manifest, jobs: list[Job], model: ModelInfo, spec: EngineSpec, started: datetime
) -> RenderContext:
    """Collect what rendering reads of the run. `started`: its beginning, which templates may print.

    Raises ManifestError for stop ids outside the vocabulary, and ModelError where a job renders
    text and the model has no tokenizer, or a chat template that drops it. Rows of kind raw may
    hold token ids, so each of them is checked by itself.
    """
    needs_tokenizer = [job.name for job in jobs if not job.kind.raw]
    if model.tokenizer is None and needs_tokenizer:
        raise ModelError(
            f"model {model.name!r} has no tokenizer.json, which job {needs_tokenizer[0]!r} needs",
            hint=f"add the file to {spec.model.id}; without it only kind raw with "
            "prompt_token_ids can be run",
        )
    _check_stop_ids(jobs, model)
    context = RenderContext(
        kinds=tuple(job.kind for job in jobs),
        on_too_long=tuple(job.settings.on_too_long for job in jobs),
        chats=tuple(
            ChatSettings.of(
                manifest.model.chat_template_kwargs | job.settings.chat_template_kwargs, started
            )
            for job in jobs
        ),
        model_info=model,
        run_seed=manifest.run.seed,
        limits=model.limits(spec),
    )
    for tokenizer in _rendering_tokenizers(context):
        tokenizer.check_chat()
    return context


def template_notes(context: RenderContext) -> list[str]:
    """Sentences on the chat template and the end tokens that a user should read before the run."""
    tokenizers = _rendering_tokenizers(context)
    notes = [note for each in tokenizers for note in each.chat_notes]
    if context.model_info.tokenizer is not None:
        notes += context.model_info.tokenizer.stop_notes(context.model_info.vocab_size)
    if tokenizers and not tokenizers[0].has_chat_template:
        notes.insert(
            0,
            f"model {context.model_info.name!r} has no chat template: system, document and "
            "instruction are joined by blank lines",
        )
    return list(dict.fromkeys(notes))


def _rendering_tokenizers(context: RenderContext) -> list[AnyTokenizer]:
    """The tokenizer of each job that renders messages."""
    found = [context.tokenizer_of(i) for i, kind in enumerate(context.kinds) if not kind.raw]
    return [tokenizer for tokenizer in found if tokenizer is not None]


def _check_stop_ids(jobs: list[Job], model: ModelInfo) -> None:
    """Raise ManifestError for ids that the model's vocabulary has not."""
    problems = [
        job.settings.problem(
            "sampling.stop_token_ids",
            f"stop_token_ids holds {token_id}: ids of this model go from 0 to "
            f"{model.vocab_size - 1}",
        )
        for job in jobs
        for token_id in job.sampling.stop_token_ids
        if token_id >= model.vocab_size
    ]
    if problems:
        raise ManifestError(problems)


def prepare_entries(
    jobs: list[Job],
    context: RenderContext,
    *,
    report: Report = lambda num: None,
    num_workers: int | None = None,
) -> Iterator[Entry]:
    """Yield every entry of the run, in order, with its prompt and request key, or failed.

    `report` gets the number of entries so far after each chunk. Raises ManifestError where an
    input turns out to be damaged while it is read.
    """
    entries = iter_entries(jobs)
    first = list(islice(entries, IN_PROCESS_LIMIT))
    if num_workers is None:
        small = len(first) < IN_PROCESS_LIMIT
        num_workers = 0 if small else min(_MAX_WORKERS, len(os.sched_getaffinity(0)))
    make = partial(make_worker if num_workers else make_renderer, context)
    chunks: deque[list[Entry]] = deque()
    drafts = _drafts(chain(first, entries), chunks)
    del first
    num_done = 0
    try:
        for results in map_chunks(make, drafts, num_workers=num_workers):
            for entry, rendered in _paired(chunks.popleft(), results):
                _apply(entry, rendered)
                yield entry
                num_done += 1
            report(num_done)
    except UnicodeDecodeError as error:
        raise ManifestError(f"an input holds text that is not UTF-8: {error}") from error


def _drafts(entries: Iterable[Entry], chunks: deque[list[Entry]]) -> Iterator[list[Draft]]:
    """Yield chunks of drafts. Their entries, failed ones included, are appended to `chunks`."""
    iterator = iter(entries)
    while chunk := list(islice(iterator, _CHUNK)):
        chunks.append(chunk)
        yield [draft_of(entry) for entry in chunk if entry.code is None]


def draft_of(entry: Entry, stage: int = 0) -> Draft:
    """The part of an entry that a worker renders."""
    job_index, num_samples = entry.job.index, entry.num_samples
    return Draft(job_index, entry.variables, entry.sampling, num_samples, stage, entry.flags)


def _paired(chunk: list[Entry], results: list[Rendered]) -> Iterator[tuple[Entry, Rendered | None]]:
    rendered = iter(results)
    for entry in chunk:
        yield entry, next(rendered) if entry.code is None else None


def _apply(entry: Entry, rendered: Rendered | None) -> None:
    if rendered is None:
        return
    if rendered.code is not None:
        entry.fail(rendered.code, rendered.message)
        return
    entry.prompt_token_ids = rendered.prompt_token_ids
    entry.request_key = rendered.request_key
    entry.flags = rendered.flags
    if entry.job.kind.raw:
        entry.variables = {}
