"""Counts of a run: every entry ends in exactly one way, and the counts must show it."""

from dataclasses import asdict, dataclass, field

from thothy_batch.records import ItemStatus
from thothy_batch.runner.entry import Entry
from thothy_batch.runner.job import Job

# Answered rows of a job before its failures are judged.
_MIN_ANSWERED = 20


@dataclass(slots=True)
class JobCount:
    """How the entries of one job stand."""

    name: str
    kind: str
    priority: int
    max_failed_pct: float
    num_items: int = 0
    num_done: int = 0
    num_failed: int = 0
    num_reused: int = 0
    num_not_run: int = 0
    num_flagged: int = 0
    num_answered: int = 0  # requests that the engine answered
    num_rejected: int = 0  # of them, those whose answer was no good
    stopped: bool = False

    @property
    def num_open(self) -> int:
        return self.num_items - self.num_settled

    @property
    def num_settled(self) -> int:
        return self.num_done + self.num_failed + self.num_reused + self.num_not_run

    @property
    def too_many_failed(self) -> bool:
        """True when the job should stop: enough answers are in, and too many are no good."""
        if self.num_answered < _MIN_ANSWERED:
            return False
        return 100 * self.num_rejected > self.max_failed_pct * self.num_answered

    def as_json(self) -> dict[str, object]:
        """The counts as the summary and the status file show them."""
        left_out = ("max_failed_pct", "num_answered", "num_rejected")
        return {name: v for name, v in asdict(self).items() if name not in left_out}


@dataclass(slots=True)
class Tokens:
    """Tokens of the requests that gave an artifact."""

    prompt_tokens: int = 0
    cached_prompt_tokens: int = 0
    output_tokens: int = 0


@dataclass(slots=True)
class Account:
    """All counts of a run."""

    jobs: list[JobCount]
    tokens: Tokens = field(default_factory=Tokens)
    _settled: set[Entry] = field(default_factory=set)

    @classmethod
    def of(cls, jobs: list[Job], entries: list[Entry]) -> "Account":
        """Nothing settled yet."""
        counts = [
            JobCount(job.name, job.kind.name, job.settings.priority, job.settings.max_failed_pct)
            for job in jobs
        ]
        for entry in entries:
            counts[entry.job.index].num_items += 1
        return cls(counts)

    def job_of(self, entry: Entry) -> JobCount:
        return self.jobs[entry.job.index]

    def settle(self, entry: Entry, status: ItemStatus) -> None:
        """Notes how an entry ended; each may end once."""
        assert entry not in self._settled, f"{entry.key} ended twice"
        self._settled.add(entry)
        count = self.job_of(entry)
        name = f"num_{status.value}"
        setattr(count, name, getattr(count, name) + 1)

    def is_open(self, entry: Entry) -> bool:
        return entry not in self._settled

    def total(self, name: str) -> int:
        """The sum of one count over all jobs."""
        return sum(int(getattr(count, name)) for count in self.jobs)

    def adds_up(self) -> bool:
        """True when every entry has ended."""
        return all(count.num_open == 0 for count in self.jobs)

    def as_json(self) -> dict[str, int]:
        """Counts over all jobs."""
        names = ("num_items", "num_done", "num_failed", "num_reused", "num_not_run", "num_flagged")
        return {name: self.total(name) for name in names}
