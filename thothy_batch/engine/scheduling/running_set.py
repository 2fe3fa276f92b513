"""Running set: admitted sequences by phase, and a heap of their next events.

The phases are prefilling, decoding and parked. The heap holds the step before which a decoding
sequence ends or needs a block, so a step costs the same here for any number of sequences.
"""

from collections import deque
from collections.abc import Iterator
from heapq import heapify, heappop, heappush

from thothy_batch.engine.core.config import EngineConfig
from thothy_batch.engine.core.sequence import Clock, Sequence, SequenceStatus
from thothy_batch.engine.scheduling.decode_set import DecodeSet

_Event = tuple[int, int, Sequence, int]  # due step, event number, sequence, its joined_at
_NEVER = 1 << 30
_MIN_SWEPT = 64  # events; smaller heaps are not swept of void ones


class RunningSet:
    """Running sequences, each in one phase.

    `prefilling`: prompt tokens remain to be computed, in admission order. `decoding`. Parked: ready
    to decode, but a step has no token left for it.
    """

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        self.clock = Clock()
        self.decoding = DecodeSet()
        self.prefilling: deque[Sequence] = deque()
        self.num_slots = 0  # sequences, future forks included
        self.num_headroom_blocks = 0  # that may be needed beyond the expected lengths
        self._parked: deque[Sequence] = deque()
        self._all: dict[Sequence, None] = {}  # oldest admission first
        self._events: list[_Event] = []
        self._needs: list[_Event] = []  # events that need a block
        self._satisfied: set[int] = set()  # numbers of events whose block was allocated early
        self._num_events = 0

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._all)

    @property
    def youngest(self) -> Sequence:
        return next(reversed(self._all))

    def add(self, seq: Sequence) -> None:
        """Add an admitted sequence; its prompt is computed after those already prefilling."""
        seq.status = SequenceStatus.RUNNING
        self._all[seq] = None
        self.prefilling.append(seq)
        self.num_slots += seq.num_slots
        self.num_headroom_blocks += self.headroom_blocks(seq)

    def remove(self, seq: Sequence) -> None:
        """Remove a sequence that ends or is preempted; it keeps its tokens and counts."""
        self.num_slots -= seq.num_slots
        self.num_headroom_blocks -= self.headroom_blocks(seq)
        del self._all[seq]
        if seq.is_decoding:
            self.decoding.remove(seq)
            seq.stop_decoding()
        elif seq in self.prefilling:
            self.prefilling.remove(seq)
        else:
            self._parked.remove(seq)

    def finish_prefill(self, group: list[Sequence]) -> None:
        """Start decoding the first prefilling sequence and its forks: each drew a token."""
        first = self.prefilling.popleft()
        assert first is group[0], "prompts end in the order in which they began"
        for member in group:
            self._all[member] = None
            member.num_known += 1
            self._start_decoding(member)

    def resume(self) -> None:
        """Start decoding parked sequences while a step has tokens left."""
        while self._parked and len(self.decoding) < self._config.max_step_tokens:
            self._start_decoding(self._parked.popleft())

    def headroom_blocks(self, seq: Sequence) -> int:
        """Return the blocks a sequence and its forks may need beyond those of admission."""
        if self._config.admission == "optimistic":
            return 0
        blocks_for = self._config.layout.blocks_for
        return seq.num_slots * (blocks_for(seq.max_len) - blocks_for(seq.expected_len))

    @property
    def num_safe_steps(self) -> int:
        """Decode steps until a sequence ends or needs a block; 0: one needs a block now."""
        while self._events:
            due, number, seq, joined_at = self._events[0]
            if seq.joined_at == joined_at and number not in self._satisfied:
                return max(0, due - self.clock.steps)
            heappop(self._events)  # void, or satisfied early
            self._satisfied.discard(number)
        return 1

    @property
    def num_steps_to_need(self) -> int:
        """Decode steps until a sequence needs a block, if none ends before.

        Needs of the current step must be satisfied.
        """
        while self._needs:
            due, _, seq, joined_at = self._needs[0]
            if seq.joined_at == joined_at and due > self.clock.steps:
                return due - self.clock.steps
            heappop(self._needs)
        return _NEVER

    @property
    def due(self) -> Sequence:
        """The sequence that needs a block now, where `num_safe_steps` is 0."""
        seq = self._events[0][2]
        assert seq.num_tokens < seq.max_len, "a sequence outlived its last token"
        return seq

    def pop_next_need(self) -> None:
        """Drop the event of `due`: it has its block, and gets a new event if it still decodes."""
        seq = heappop(self._events)[2]
        if seq.is_decoding:
            self.schedule_event(seq)

    def next_need(self, num_steps: int) -> Sequence | None:
        """Return the sequence that needs a block first, if within `num_steps` steps."""
        return self._needs[0][2] if self.num_steps_to_need <= num_steps else None

    def mark_satisfied(self) -> None:
        """Note that the sequence of `next_need` has its block."""
        _, number, seq, _ = heappop(self._needs)
        self._satisfied.add(number)
        self.schedule_event(seq)

    def schedule_event(self, seq: Sequence) -> None:
        """Schedule the step before which a decoding sequence ends or needs a block."""
        assert seq.joined_at is not None
        covered = seq.covered_len(self._config.block_size)
        # The last token is drawn but never computed.
        is_covered = covered >= seq.max_len - 1
        length = seq.max_len if is_covered else covered + 1
        self._num_events += 1
        event = (seq.joined_at + length - seq.num_known, self._num_events, seq, seq.joined_at)
        heappush(self._events, event)
        if not is_covered:
            heappush(self._needs, event)

    def accept_drafted(self, seq: Sequence, num_tokens: int) -> None:
        """Count accepted draft tokens of the last step. The sequence's earlier events are void."""
        seq.accept_drafted(num_tokens)
        self.schedule_event(seq)
        # A void event would otherwise stay in the heap until its step.
        if len(self._events) > max(_MIN_SWEPT, 4 * len(self.decoding)):
            self._sweep()

    def check_integrity(self) -> None:
        """Assert that every sequence is in one phase, with the right counts."""
        decoding = set(self.decoding)
        assert decoding | set(self.prefilling) | set(self._parked) == set(self._all)
        assert len(decoding) + len(self.prefilling) + len(self._parked) == len(self._all)
        for seq in self._all:
            assert seq.status is SequenceStatus.RUNNING
            assert seq.is_decoding == (seq in decoding)
            assert seq.num_uncomputed > 0, "a running sequence has a token to compute"
            assert seq.num_tokens < seq.max_len or seq.num_output == 0
        assert self.num_slots == sum(seq.num_slots for seq in self._all)
        assert self.num_headroom_blocks == sum(map(self.headroom_blocks, self._all))
        known = {(seq, joined_at) for _, _, seq, joined_at in self._events}
        assert all((seq, seq.joined_at) in known for seq in decoding), "a sequence has no event"
        numbers = {number for _, number, _, _ in self._events}
        assert self._satisfied <= numbers, "a satisfied need has no event"

    def _sweep(self) -> None:
        """Drop void events."""
        self._events = [
            e for e in self._events if e[2].joined_at == e[3] and e[1] not in self._satisfied
        ]
        self._needs = [e for e in self._needs if e[2].joined_at == e[3]]
        self._satisfied.clear()
        heapify(self._events)
        heapify(self._needs)

    def _start_decoding(self, seq: Sequence) -> None:
        """Start decoding a sequence, or park it if a step has no token for it."""
        if len(self.decoding) >= self._config.max_step_tokens:
            self._parked.append(seq)
            return
        seq.start_decoding()
        self.decoding.add(seq)
        self.schedule_event(seq)
