"""The admitted sequences: who decodes, whose prompt is open, and what happens next to whom.

A clock counts the decode steps of all, and a heap knows before which step the next row ends or
needs a block: so a step of many rows costs no more here than one of few.
"""

from collections import deque
from collections.abc import Iterator
from heapq import heapify, heappop, heappush

from thothy_batch.engine.core.config import EngineConfig
from thothy_batch.engine.core.sequence import Clock, Sequence, SequenceStatus
from thothy_batch.engine.scheduling.decode_set import DecodeSet

_Event = tuple[int, int, Sequence, int]  # due step, number, who, and when it joined
_FOR_EVER = 1 << 30
_LEAST_SWEPT = 64  # events, below which void ones are left to lie


class RunningSet:
    """Every running sequence is in one of three places: `prompts`, in the order of admission,
    where tokens are still to be computed; `decoding`; or parked, where it could decode but a step
    has no more tokens."""

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        self.clock = Clock()
        self.decoding = DecodeSet()
        self.prompts: deque[Sequence] = deque()
        self.num_slots = 0  # sequences, those that will be forked among them
        self.num_growth = 0  # blocks that may be needed beyond those of the expected lengths
        self._parked: deque[Sequence] = deque()
        self._all: dict[Sequence, None] = {}  # oldest admission first
        self._events: list[_Event] = []
        self._needs: list[_Event] = []  # of a block alone
        self._met: set[int] = set()  # numbers of events whose need was met beforehand
        self._num_events = 0

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._all)

    @property
    def youngest(self) -> Sequence:
        return next(reversed(self._all))

    def add(self, seq: Sequence) -> None:
        """A sequence was admitted: its prompt comes after those that are open."""
        seq.status = SequenceStatus.RUNNING
        self._all[seq] = None
        self.prompts.append(seq)
        self.num_slots += seq.num_slots
        self.num_growth += self.headroom_blocks(seq)

    def take_out(self, seq: Sequence) -> None:
        """A sequence ends or has to wait; what it knows and has computed stays with it."""
        self.num_slots -= seq.num_slots
        self.num_growth -= self.headroom_blocks(seq)
        del self._all[seq]
        if seq.is_decoding:
            self.decoding.remove(seq)
            seq.leave()
        elif seq in self.prompts:
            self.prompts.remove(seq)
        else:
            self._parked.remove(seq)

    def end_prompt(self, group: list[Sequence]) -> None:
        """All tokens of the first open prompt are computed: it and its forks drew one each."""
        first = self.prompts.popleft()
        assert first is group[0], "prompts end in the order in which they began"
        for member in group:
            self._all[member] = None
            member.num_known += 1
            self._join(member)

    def resume(self) -> None:
        """Let decode who can."""
        while self._parked and len(self.decoding) < self._config.max_step_tokens:
            self._join(self._parked.popleft())

    def headroom_blocks(self, seq: Sequence) -> int:
        """Blocks that a sequence and its forks may need beyond what admission gives them."""
        if self._config.admission == "optimistic":
            return 0
        blocks_for = self._config.layout.blocks_for
        return seq.num_slots * (blocks_for(seq.max_len) - blocks_for(seq.expected_len))

    @property
    def num_safe_steps(self) -> int:
        """Decode steps until a row ends at the latest, or needs a block; 0: one needs it now."""
        while self._events:
            due, number, seq, joined_at = self._events[0]
            if seq.joined_at == joined_at and number not in self._met:
                return max(0, due - self.clock.steps)
            heappop(self._events)  # it left meanwhile, or has its block
            self._met.discard(number)
        return 1

    def next_need(self, num_steps: int) -> Sequence | None:
        """The row that will need a block first, if within so many steps."""
        return self._needs[0][2] if self.num_steps_to_need <= num_steps else None

    def mark_satisfied(self) -> None:
        """The row of `next_need` has its block."""
        _, number, seq, _ = heappop(self._needs)
        self._met.add(number)
        self.schedule_event(seq)

    @property
    def num_steps_to_need(self) -> int:
        """Decode steps until a row needs a block, if none ends before. Needs of now are met."""
        while self._needs:
            due, _, seq, joined_at = self._needs[0]
            if seq.joined_at == joined_at and due > self.clock.steps:
                return due - self.clock.steps
            heappop(self._needs)
        return _FOR_EVER

    def pop_next_need(self) -> Sequence:
        """Pop the sequence that needs a block now. Call `schedule_event` once it can continue."""
        seq = heappop(self._events)[2]
        assert seq.num_tokens < seq.max_len, "a row outlived its last token"
        return seq

    def schedule_event(self, seq: Sequence) -> None:
        """Note the step before which a decoding sequence ends at the latest, or needs a block."""
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
        """A decoding sequence drew so many tokens more than one in the last step. What was foreseen
        of it is void: it joined since."""
        seq.accept_drafted(num_tokens)
        self.schedule_event(seq)
        # Each leaves a void event behind that would lie there until its time has come.
        if len(self._events) > max(_LEAST_SWEPT, 4 * len(self.decoding)):
            self._sweep()

    def check_integrity(self) -> None:
        """Assert that everybody is in one place, with the right counts."""
        decoding = set(self.decoding)
        assert decoding | set(self.prompts) | set(self._parked) == set(self._all)
        assert len(decoding) + len(self.prompts) + len(self._parked) == len(self._all)
        for seq in self._all:
            assert seq.status is SequenceStatus.RUNNING
            assert seq.is_decoding == (seq in decoding)
            assert seq.num_uncomputed > 0, "a running sequence has a token to compute"
            assert seq.num_tokens < seq.max_len or seq.num_output == 0
        assert self.num_slots == sum(seq.num_slots for seq in self._all)
        assert self.num_growth == sum(map(self.headroom_blocks, self._all))
        known = {(seq, joined_at) for _, _, seq, joined_at in self._events}
        assert all((seq, seq.joined_at) in known for seq in decoding), "a row is not foreseen"
        assert self._met <= {number for _, number, _, _ in self._events}, "a met need has no event"

    def _sweep(self) -> None:
        """Drop the events that are void."""
        self._events = [e for e in self._events if e[2].joined_at == e[3] and e[1] not in self._met]
        self._needs = [e for e in self._needs if e[2].joined_at == e[3]]
        self._met.clear()
        heapify(self._events)
        heapify(self._needs)

    def _join(self, seq: Sequence) -> None:
        """Begin to decode, if a step has a token for it."""
        if len(self.decoding) >= self._config.max_step_tokens:
            self._parked.append(seq)
            return
        seq.join()
        self.decoding.add(seq)
        self.schedule_event(seq)
