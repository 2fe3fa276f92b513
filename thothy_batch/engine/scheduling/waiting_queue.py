"""Who waits to be admitted: by priority, then in the order of submission."""

from collections import deque
from collections.abc import Callable, Iterator

from thothy_batch.engine.core.sequence import Sequence


class WaitingQueue:
    """One line per priority; who was preempted stands at the head of its line. Who is set aside
    stands in none until it is taken back."""

    def __init__(self) -> None:
        self._lines: dict[int, deque[Sequence]] = {}
        self._aside: list[Sequence] = []  # in the order of admission

    def __len__(self) -> int:
        return sum(len(line) for line in self._lines.values())

    def __iter__(self) -> Iterator[Sequence]:
        """In the order of admission. The queue must not change meanwhile."""
        for priority in sorted(self._lines, reverse=True):
            yield from self._lines[priority]

    @property
    def head(self) -> Sequence | None:
        """Who is admitted next; None where nobody waits."""
        for priority in sorted(self._lines, reverse=True):
            if self._lines[priority]:
                return self._lines[priority][0]
        return None

    def append(self, seq: Sequence) -> None:
        self._line_of(seq).append(seq)

    def put_back(self, seq: Sequence) -> None:
        """Put a preempted sequence at the head of its line."""
        self._line_of(seq).appendleft(seq)

    def remove_head(self, seq: Sequence) -> None:
        """Take out a sequence that was admitted: the head of its line."""
        head = self._line_of(seq).popleft()
        assert head is seq, "sequences are admitted in order"

    @property
    def num_deferred(self) -> int:
        return len(self._aside)

    def defer(self, seq: Sequence) -> None:
        """The head of the queue is not to be admitted for now: the next one is the head."""
        self.remove_head(seq)
        self._aside.append(seq)

    def requeue_deferred(self, is_over: Callable[[Sequence], bool]) -> list[Sequence]:
        """Those aside stand in line again, behind who was preempted; but for those of whom
        `is_over` says so, which are returned."""
        aside, self._aside = self._aside, []
        gone = []
        for seq in reversed(aside):
            if is_over(seq):
                gone.append(seq)
                continue
            line = self._line_of(seq)
            place = next((i for i, each in enumerate(line) if not _is_started(each)), len(line))
            line.insert(place, seq)
        return gone

    def drop_unstarted(self, is_dropped: Callable[[Sequence], bool]) -> list[Sequence]:
        """Remove and return sequences that were never admitted and that `is_dropped` chooses.
        Preempted sequences stay."""
        self.requeue_deferred(lambda seq: False)
        dropped = [seq for seq in self if not _is_started(seq) and is_dropped(seq)]
        gone = set(map(id, dropped))
        for priority, line in self._lines.items():
            self._lines[priority] = deque(seq for seq in line if id(seq) not in gone)
        return dropped

    def _line_of(self, seq: Sequence) -> deque[Sequence]:
        return self._lines.setdefault(seq.state.request.priority, deque())


def _is_started(seq: Sequence) -> bool:
    return seq.state.started_at is not None
