"""Entry counts of a run: every entry ends in exactly one way, and the counts must show it."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from thothy_batch.records import ItemStatus
from thothy_batch.runner.entries.entry import Entry
from thothy_batch.runner.entries.job import Job
from thothy_batch.runner.work.count_document import CountsDocument, JobDocument

# Completed requests of a job before its failures can stop it.
_MIN_COMPLETED = 20


@dataclass(slots=True)
class JobCount:
    """Counts of one job."""

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
    num_completed: int = 0  # requests that the engine completed, or failed to
    num_rejected: int = 0  # of them, those that failed their checks
    stopped: bool = False

    @property
    def num_open(self) -> int:
        return self.num_items - self.num_settled

    @property
    def num_settled(self) -> int:
        """Entries that have ended."""
        return self.num_done + self.num_failed + self.num_reused + self.num_not_run

    @property
    def too_many_failed(self) -> bool:
        """True if the job should stop: enough requests completed, and too many were rejected."""
        if self.num_completed < _MIN_COMPLETED:
            return False
        return 100 * self.num_rejected > self.max_failed_pct * self.num_completed

    def as_json(self) -> JobDocument:
        """The counts as the summary and the status file show them."""
        return {
            "name": self.name,
            "kind": self.kind,
            "priority": self.priority,
            "num_items": self.num_items,
            "num_done": self.num_done,
            "num_failed": self.num_failed,
            "num_reused": self.num_reused,
            "num_not_run": self.num_not_run,
            "num_flagged": self.num_flagged,
            "stopped": self.stopped,
        }


@dataclass(slots=True)
class Tokens:
    """Tokens of the requests that gave an artifact."""

    prompt_tokens: int = 0
    cached_prompt_tokens: int = 0
    output_tokens: int = 0


@dataclass(slots=True)
class RunCounts:
    """All counts of a run."""

    jobs: list[JobCount]
    tokens: Tokens = field(default_factory=Tokens)
    _ended: set[Entry] = field(default_factory=set)

    @classmethod
    def of(cls, jobs: Iterable[Job]) -> "RunCounts":
        """Zeros for each job."""
        return cls(
            [
                JobCount(
                    job.name, job.kind.name, job.settings.priority, job.settings.max_failed_pct
                )
                for job in jobs
            ]
        )

    def add_entries(self, entries: Iterable[Entry]) -> None:
        """Count the entries of the run, all of them open."""
        for entry in entries:
            self.job_of(entry).num_items += 1

    def job_of(self, entry: Entry) -> JobCount:
        return self.jobs[entry.job.index]

    def record(self, entry: Entry, status: ItemStatus) -> None:
        """Record how an entry ended; each may end once."""
        assert entry not in self._ended, f"{entry.key} ended twice"
        self._ended.add(entry)
        count = self.job_of(entry)
        name = f"num_{status.value}"
        setattr(count, name, getattr(count, name) + 1)

    def uncount(self, job: str, status: ItemStatus, *, flagged: bool) -> None:
        """Count an entry as not run whose recorded end the store has no room for."""
        count = next(count for count in self.jobs if count.name == job)
        name = f"num_{status.value}"
        setattr(count, name, getattr(count, name) - 1)
        count.num_not_run += 1
        count.num_flagged -= flagged

    def is_open(self, entry: Entry) -> bool:
        return entry not in self._ended

    def total(self, name: str) -> int:
        """The sum of one count over all jobs."""
        return sum(int(getattr(count, name)) for count in self.jobs)

    def adds_up(self) -> bool:
        """True if every entry has ended."""
        return all(count.num_open == 0 for count in self.jobs)

    def as_json(self) -> CountsDocument:
        """Counts over all jobs."""
        return {
            "num_items": self.total("num_items"),
            "num_done": self.total("num_done"),
            "num_failed": self.total("num_failed"),
            "num_reused": self.total("num_reused"),
            "num_not_run": self.total("num_not_run"),
            "num_flagged": self.total("num_flagged"),
        }
