"""A request to compute, the entries that share its result, and its attempts and cost so far."""

from array import array
from dataclasses import dataclass, field

from thothy_batch.records import Request, RequestResult
from thothy_batch.runner.entries.deadlines import ends_at
from thothy_batch.runner.entries.entry import Entry
from thothy_batch.runner.work.counts import JobCount
from thothy_batch.runner.work.retry_policy import Attempt

_BETWEEN_REASONING = "\n\n---\n\n"  # of several stages or samples


@dataclass(slots=True)
class Cost:
    """Tokens and seconds of a request's stages and attempts so far."""

    prompt_tokens: int = 0
    cached_prompt_tokens: int = 0
    output_tokens: int = 0
    wasted_tokens: int = 0
    queue_s: float | None = None
    engine_s: float = 0.0

    def add(self, result: RequestResult) -> None:
        """Add the cost of one result."""
        self.prompt_tokens += result.prompt_tokens
        self.cached_prompt_tokens += result.cached_prompt_tokens
        self.output_tokens += result.output_tokens
        self.wasted_tokens += result.wasted_tokens
        if self.queue_s is None:
            self.queue_s = result.queue_s
        # From the first stage's first computed token to the last stage's last one.
        self.engine_s = result.queue_s + result.engine_s - self.queue_s

    def waste(self, result: RequestResult) -> None:
        """Count an added result as wasted: it gives no artifact."""
        self.prompt_tokens -= result.prompt_tokens
        self.cached_prompt_tokens -= result.cached_prompt_tokens
        self.output_tokens -= result.output_tokens
        self.wasted_tokens += computed_tokens(result)


@dataclass(slots=True, eq=False)
class PendingRequest:
    """One request and every entry that shares its result. The first entry gets the artifact, the
    others get copies."""

    request: Request
    entries: list[Entry]
    attempt: int = 1
    stage: int = 0
    cost: Cost = field(default_factory=Cost)
    num_attempts: int = 0  # completed ones of its last stage, in this run
    last_attempt: int = 1  # the number of the latest completed one
    best: Attempt | None = None  # of the completed ones
    reasoning: list[str] = field(default_factory=list)  # of its earlier stages
    counted_as_rejected: JobCount | None = None  # the job whose `num_rejected` includes it

    @property
    def primary(self) -> Entry:
        return self.entries[0]

    @property
    def is_rejected(self) -> bool:
        """True if it was attempted and no attempt passed the checks."""
        return self.best is not None and bool(self.best.output.failure)

    @property
    def is_storable(self) -> bool:
        """True if an attempt passed the checks."""
        return self.best is not None and not self.best.output.failure

    @property
    def all_reasoning(self) -> str:
        """The reasoning of all stages and samples in order, "" where there is none."""
        last = self.best.reasoning if self.best is not None else ()
        return _BETWEEN_REASONING.join(part for part in (*self.reasoning, *last) if part)

    def wanted_until(self, run_end: float | None) -> float | None:
        """time.monotonic() after which its result is useless; None: no limit.

        That is the run's own end or, where every entry's job has a deadline, the last of these.
        """
        deadlines = [entry.job.deadline for entry in self.entries]
        known = [at for at in deadlines if at is not None]
        last = ends_at(max(known)) if len(known) == len(deadlines) else None
        return min((at for at in (last, run_end) if at is not None), default=None)

    def add_attempt(self, attempt: Attempt) -> None:
        """Record a completed attempt. The better one is kept, of equal ones the first; the other's
        tokens are wasted."""
        self.num_attempts += 1
        self.last_attempt = attempt.number
        loser, self.best = self.best, attempt
        if loser is not None:
            if attempt.rank >= loser.rank:
                loser, self.best = attempt, loser
            self.cost.waste(loser.result)

    def release_inputs(self) -> None:
        """Free the texts and prompts of its ended entries: a run holds up to millions."""
        for entry in self.entries:
            entry.variables = {}
            entry.prompt_token_ids = array("i")


def computed_tokens(cost: Cost | RequestResult) -> int:
    """Prompt tokens that were not cached, and output tokens."""
    return cost.prompt_tokens - cost.cached_prompt_tokens + cost.output_tokens
