"""Who waits to be admitted: by priority, then in the order of submission."""

from collections import deque
from collections.abc import Iterator

from thothy_batch.engine.sequence import Sequence


class WaitingQueue:
    """One line per priority; who was preempted stands at the head of its line."""

    def __init__(self) -> None:
        self._lines: dict[int, deque[Sequence]] = {}

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

    def drop_unstarted(self) -> int:
        """Forget what was never admitted; preempted sequences stay. Returns how many went."""
        before = len(self)
        for priority, line in self._lines.items():
            kept = (seq for seq in line if seq.state.started_at is not None)
            self._lines[priority] = deque(kept)
        return before - len(self)

    def _line_of(self, seq: Sequence) -> deque[Sequence]:
        return self._lines.setdefault(seq.state.request.priority, deque())
