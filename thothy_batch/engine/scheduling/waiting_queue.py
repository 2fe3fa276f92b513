"""Waiting queue: sequences to be admitted, by priority, then in the order of submission."""

from collections import deque
from collections.abc import Callable, Iterator

from thothy_batch.engine.core.sequence import Sequence


class WaitingQueue:
    """One line per priority; preempted sequences are at the head of their line.

    Deferred sequences are in no line until they are requeued.
    """

    def __init__(self) -> None:
        self._lines: dict[int, deque[Sequence]] = {}
        self._deferred: list[Sequence] = []  # in admission order

    def __len__(self) -> int:
        return sum(len(line) for line in self._lines.values())

    def __iter__(self) -> Iterator[Sequence]:
        """Iterate in admission order. The queue must not change meanwhile."""
        for priority in sorted(self._lines, reverse=True):
            yield from self._lines[priority]

    @property
    def head(self) -> Sequence | None:
        """The next sequence to admit; None if the queue is empty."""
        for priority in sorted(self._lines, reverse=True):
            if self._lines[priority]:
                return self._lines[priority][0]
        return None

    @property
    def num_deferred(self) -> int:
        return len(self._deferred)

    def append(self, seq: Sequence) -> None:
        self._line_of(seq).append(seq)

    def put_back(self, seq: Sequence) -> None:
        """Put a preempted sequence at the head of its line."""
        self._line_of(seq).appendleft(seq)

    def remove_head(self, seq: Sequence) -> None:
        """Remove an admitted sequence, the head of its line."""
        head = self._line_of(seq).popleft()
        assert head is seq, "sequences are admitted in order"

    def defer(self, seq: Sequence) -> None:
        """Set the head of the queue aside; the next sequence becomes the head."""
        self.remove_head(seq)
        self._deferred.append(seq)

    def requeue_deferred(self, is_expired: Callable[[Sequence], bool]) -> list[Sequence]:
        """Put deferred sequences back into their lines, after preempted ones.

        Drops and returns those that are expired.
        """
        deferred, self._deferred = self._deferred, []
        expired = []
        for seq in reversed(deferred):
            if is_expired(seq):
                expired.append(seq)
                continue
            line = self._line_of(seq)
            place = next((i for i, each in enumerate(line) if not _is_started(each)), len(line))
            line.insert(place, seq)
        return expired

    def drop_deferred(self) -> list[Sequence]:
        """Drop and return all deferred sequences."""
        return self.requeue_deferred(lambda seq: True)

    def drop_unstarted(self, is_dropped: Callable[[Sequence], bool]) -> list[Sequence]:
        """Drop and return the sequences that `is_dropped` selects and that were never admitted.

        Preempted sequences stay.
        """
        self.requeue_deferred(lambda seq: False)
        dropped = {seq: None for seq in self if not _is_started(seq) and is_dropped(seq)}
        for priority, line in self._lines.items():
            self._lines[priority] = deque(seq for seq in line if seq not in dropped)
        return list(dropped)

    def _line_of(self, seq: Sequence) -> deque[Sequence]:
        return self._lines.setdefault(seq.state.request.priority, deque())


def _is_started(seq: Sequence) -> bool:
    return seq.state.started_at is not None
