"""Who answers each entry: the store, another entry of this run, or the engine."""

import math
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from thothy_batch.plan import artifact_id, row_seed
from thothy_batch.records import FailureCode, Request, RequestResult
from thothy_batch.runner.entries.entry import Entry
from thothy_batch.runner.work.counts import JobCount
from thothy_batch.runner.work.retry_policy import Attempt
from thothy_batch.store.queries.result_lookup import CachedResult


@dataclass(slots=True, eq=False)
class PendingRequest:
    """One request to compute, and every entry that it answers. The first gives the artifact."""

    request: Request
    entries: list[Entry]
    attempt: int = 1
    stage: int = 0
    cost: "Cost" = field(default_factory=lambda: Cost())
    num_tried: int = 0  # answers of its last stage, in this run
    last_attempt: int = 1  # that was answered
    best: Attempt | None = None  # of them
    weighed: JobCount | None = None  # whose first answer was no good: this one

    @property
    def primary(self) -> Entry:
        return self.entries[0]

    @property
    def is_rejected(self) -> bool:
        """Whether it has answers, and none is good enough to be stored."""
        return self.best is not None and bool(self.best.finished.failure)

    def wanted_until(self, end: tuple[float, str] | None) -> float | None:
        """time.monotonic() after which nobody wants its answer; None: it has all the time. `end`:
        the run's own, see `Stopping.next_end`."""
        own = [entry.job.ends_at for entry in self.entries]
        known = [at for at in own if at is not None]
        last = max(known) if len(known) == len(own) else None
        return min((at for at in (last, end and end[0]) if at is not None), default=None)

    def release_inputs(self) -> None:
        """Frees the texts and prompts of its entries, which are answered: a night holds many."""
        for entry in self.entries:
            entry.variables = {}
            entry.prompt_token_ids = array("i")

    def take(self, tried: Attempt) -> None:
        """One more answer. What the worse one took is wasted; of equal ones the first is kept."""
        self.num_tried += 1
        self.last_attempt = tried.attempt
        loser, self.best = self.best, tried
        if loser is not None:
            if tried.rank >= loser.rank:
                loser, self.best = tried, loser
            self.cost.waste(loser.result)


@dataclass(slots=True)
class Cost:
    """What the stages of a request took so far."""

    prompt_tokens: int = 0
    cached_prompt_tokens: int = 0
    output_tokens: int = 0
    wasted_tokens: int = 0
    queue_s: float | None = None
    engine_s: float = 0.0

    def add(self, result: RequestResult) -> None:
        """What one answer took."""
        self.prompt_tokens += result.prompt_tokens
        self.cached_prompt_tokens += result.cached_prompt_tokens
        self.output_tokens += result.output_tokens
        self.wasted_tokens += result.wasted_tokens
        if self.queue_s is None:
            self.queue_s = result.queue_s
        # From the first stage's first computed token to the last stage's last one.
        self.engine_s = result.queue_s + result.engine_s - self.queue_s

    def waste(self, result: RequestResult) -> None:
        """An answer that was added is not used."""
        self.prompt_tokens -= result.prompt_tokens
        self.cached_prompt_tokens -= result.cached_prompt_tokens
        self.output_tokens -= result.output_tokens
        computed = result.prompt_tokens - result.cached_prompt_tokens + result.output_tokens
        self.wasted_tokens += computed


@dataclass(slots=True)
class Assignment:
    """The entries of a night by who answers them."""

    entries: list[Entry]
    failed: list[Entry] = field(default_factory=list)  # unusable: found in this run
    reused: list[tuple[Entry, CachedResult]] = field(default_factory=list)
    failed_before: list[tuple[Entry, CachedResult]] = field(default_factory=list)
    work: list[PendingRequest] = field(default_factory=list)

    @property
    def num_duplicates(self) -> int:
        """Entries that another entry's request answers."""
        return sum(len(work.entries) - 1 for work in self.work)


def entry_artifact_id(entry: Entry) -> str:
    """The identity of the entry's artifact."""
    return artifact_id(entry.job.name, entry.item_id, entry.variant, entry.request_key)


def assign(
    entries: Iterable[Entry],
    answers: dict[str, CachedResult],
    *,
    run_seed: int,
    retry_failed: bool = False,
    force: bool = False,
) -> Assignment:
    """Splits the entries. `answers` is what the store knows of their request keys."""
    found = Assignment(entries=list(entries))
    by_key: dict[str, PendingRequest] = {}
    for entry in found.entries:
        answer = None if force else answers.get(entry.request_key)
        if entry.code is not None:
            found.failed.append(entry)
        elif answer is not None and not answer.failed:
            found.reused.append((entry, answer))
        elif answer is not None and not retry_failed:
            found.failed_before.append((entry, answer))
        elif entry.request_key in by_key:
            _join(by_key[entry.request_key], entry)
        else:
            work = _work(len(found.work), entry, run_seed, answer)
            by_key[entry.request_key] = work
            found.work.append(work)
    return found


def request_keys(entries: Iterable[Entry]) -> Iterator[str]:
    """The keys to ask the store for."""
    return (entry.request_key for entry in entries if entry.request_key)


def _join(work: PendingRequest, entry: Entry) -> None:
    entry.prompt_token_ids = work.primary.prompt_token_ids
    work.entries.append(entry)
    request, job = work.request, entry.job
    if job.settings.priority > request.priority:
        request = replace(request, priority=job.settings.priority)
    if job.ends_at is not None and job.ends_at < (request.ends_at or math.inf):
        request = replace(request, ends_at=job.ends_at)
    work.request = request


def _work(
    request_id: int, entry: Entry, run_seed: int, failed: CachedResult | None
) -> PendingRequest:
    """`failed`: what it was answered in an earlier run, if it was."""
    attempt, sampling, job = 1, entry.sampling, entry.job
    if failed is not None:
        attempt = failed.attempt + 1
        again = job.kind.retry_temperature
        is_bad = failed.code == FailureCode.INVALID_OUTPUT
        if is_bad and again is not None and sampling.temperature == 0:
            sampling = replace(sampling, temperature=again)  # greedily it would say the same
    seed = row_seed(run_seed, entry.sampling.seed, entry.request_key, attempt=attempt)
    request = Request(
        request_id=request_id,
        request_key=entry.request_key,
        prompt_token_ids=entry.prompt_token_ids,
        sampling=sampling,
        seed=seed,
        num_samples=entry.samples_of_stage(0),
        priority=job.settings.priority,
        ends_at=job.ends_at,
    )
    return PendingRequest(request, [entry], attempt)
