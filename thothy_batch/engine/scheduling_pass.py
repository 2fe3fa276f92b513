"""One decision of the scheduler: who computes what in the next step. Changes nothing.

Running sequences go first, the oldest first: each decodes one token or continues its prompt.
Where blocks run out, the youngest that has not had its turn is preempted. What is left of the
token budget goes to the waiting ones, in order; the first that does not fit ends the pass.
So at most one prompt is partly computed at any time, and whoever is oldest always moves on.
"""

from array import array
from collections.abc import Iterable
from collections.abc import Sequence as Seq

from thothy_batch.engine.block_manager import BlockManager
from thothy_batch.engine.config import EngineConfig
from thothy_batch.engine.sequence import Sequence
from thothy_batch.engine.span import ScheduledSequence, Span

# A span takes its blocks at its start; a longer one would push more out of the prefix cache
# early, and gains nothing: the decision is paid by then (about 1 % of it per step).
_MAX_SPAN_STEPS = 32


def blocks_for(num_tokens: int, block_size: int) -> int:
    return -(-num_tokens // block_size)


def blocks_needed(seq: Sequence, block_size: int) -> int:
    """Blocks of a sequence and its forks at their longest; full prompt blocks count once."""
    per_sample = blocks_for(seq.max_len, block_size)
    return per_sample + seq.num_unforked * blocks_of_fork(seq, block_size)


def blocks_of_fork(seq: Sequence, block_size: int) -> int:
    """Blocks that a fork comes to have for itself."""
    return blocks_for(seq.max_len, block_size) - seq.prompt_len // block_size


class SchedulingPass:
    """Holds the budget and the block draft of one pass."""

    def __init__(
        self,
        config: EngineConfig,
        blocks: BlockManager,
        running: Seq[Sequence],
        waiting: Iterable[Sequence],
    ) -> None:
        self._config = config
        self._block_size = config.block_size
        self._reserves = config.admission == "reserve"
        self._draft = blocks.draft()
        self._running = running
        self._waiting = waiting
        self._budget = config.max_step_tokens
        self._num_slots = 0
        self._num_reserved = 0  # blocks set aside for running sequences and not taken yet
        self._entries: list[ScheduledSequence] = []
        self._copies: list[tuple[int, int]] = []
        self._preempted: list[Sequence] = []
        self._admitted: list[Sequence] = []

    def run(self) -> Span:
        """The decision; a span without entries when there is nothing to do."""
        for seq in self._running:
            self._num_slots += seq.num_slots
            self._num_reserved += seq.num_reserved
        self._continue_running()
        if not self._preempted and not self._has_open_prompt():
            self._admit_waiting()
        num_steps = self._num_steps()
        if num_steps > 1:
            self._take_ahead(num_steps)
        return Span(
            self._entries, num_steps, self._admitted, self._preempted, self._copies, self._draft
        )

    def _continue_running(self) -> None:
        turns = list(self._running)
        index = 0
        while index < len(turns) and self._budget:
            seq = turns[index]
            if self._decodes_in_place(seq):  # nearly always: worth a short cut
                self._budget -= 1
                entry = ScheduledSequence(seq, seq.num_computed, 1, seq.num_slots, seq.block_ids)
                self._entries.append(entry)
                index += 1
                continue
            missing = self._blocks_missing(seq, min(seq.num_uncomputed, self._budget))
            while self._draft.num_free < missing and len(turns) > index + 1:
                self._preempt(turns.pop())
            num_tokens = self._fitting_tokens(seq)
            if num_tokens:
                self._continue(seq, num_tokens)
                index += 1
            else:
                assert index, "a sequence that fits the pool alone found no block"
                self._preempt(turns.pop(index))

    def _decodes_in_place(self, seq: Sequence) -> bool:
        """Whether the next token is computed alone and has its slot already."""
        num_computed = seq.num_computed
        return (
            len(seq.token_ids) - num_computed == 1
            and num_computed < len(seq.block_ids) * self._block_size
            and not seq.borrows_last_block
        )

    def _preempt(self, seq: Sequence) -> None:
        self._draft.release(seq.block_ids)
        self._num_slots -= seq.num_slots
        self._preempted.append(seq)

    def _must_copy(self, seq: Sequence) -> bool:
        """Whether the next write falls into a block that others read, or may find for what its
        origin went on to write there."""
        if not seq.borrows_last_block:
            return False
        block_id = seq.block_ids[-1]
        return self._draft.readers(block_id) > 1 or self._draft.is_findable(block_id)

    def _blocks_missing(self, seq: Sequence, num_tokens: int) -> int:
        """Blocks to take before `num_tokens` more can be computed."""
        total = blocks_for(seq.num_computed + num_tokens, self._block_size)
        return max(0, total - len(seq.block_ids)) + self._must_copy(seq)

    def _fitting_tokens(self, seq: Sequence) -> int:
        """Tokens that budget and free blocks allow, perhaps 0."""
        num_tokens = min(seq.num_uncomputed, self._budget)
        if self._blocks_missing(seq, num_tokens) <= self._draft.num_free:
            return num_tokens
        room = len(seq.block_ids) + self._draft.num_free - self._must_copy(seq)
        return max(0, min(num_tokens, room * self._block_size - seq.num_computed))

    def _continue(self, seq: Sequence, num_tokens: int) -> None:
        num_taken, copies = self._blocks_missing(seq, num_tokens), self._must_copy(seq)
        table = seq.block_ids
        if num_taken:
            table = array("i", table)
        if copies:
            borrowed = table.pop()
            table.append(self._draft.take())
            self._draft.release([borrowed])
            self._copies.append((borrowed, table[-1]))
        table.extend(self._draft.take() for _ in range(num_taken - copies))
        self._num_reserved -= min(num_taken, seq.num_reserved)
        self._schedule(seq, seq.num_computed, num_tokens, table, num_taken)

    def _schedule(
        self, seq: Sequence, start: int, num_tokens: int, table: "array[int]", num_taken: int
    ) -> ScheduledSequence:
        end = start + num_tokens
        num_rows = seq.num_slots if end == len(seq.token_ids) else 0
        if self._config.prefix_sharing and num_tokens > 1:
            # Findable at once: KV is written before attention reads, within a step too.
            for index in range(start // self._block_size, end // self._block_size):
                self._draft.register(seq.block_hash(index, self._block_size), table[index])
        self._budget -= num_tokens
        entry = ScheduledSequence(seq, start, num_tokens, num_rows, table, num_taken)
        self._entries.append(entry)
        return entry

    def _has_open_prompt(self) -> bool:
        """Whether a running sequence still lacks more than the next token after this step."""
        last = self._entries[-1] if self._entries else None
        return len(self._entries) < len(self._running) or (last is not None and not last.num_rows)

    def _admit_waiting(self) -> None:
        for seq in self._waiting:
            no_slot = self._num_slots + seq.num_slots > self._config.max_seqs
            if not self._budget or (no_slot and self._num_slots):
                return
            shared = self._find_prefix(seq)
            if not self._has_room(seq, shared):
                return
            self._admit(seq, shared)

    def _find_prefix(self, seq: Sequence) -> list[int]:
        """Blocks that hold the sequence's first tokens already; never all of its tokens."""
        found: list[int] = []
        if self._config.prefix_sharing:
            for index in range((len(seq.token_ids) - 1) // self._block_size):
                block_id = self._draft.find(seq.block_hash(index, self._block_size))
                if block_id is None:
                    break
                found.append(block_id)
        return found

    def _has_room(self, seq: Sequence, shared: list[int]) -> bool:
        """Reserve: free for all that it may ever take. Optimistic: for the tokens it has."""
        num_owned = sum(1 for block_id in shared if self._draft.readers(block_id))
        if self._reserves:
            needed = blocks_needed(seq, self._block_size) + self._num_reserved
        else:
            needed = blocks_for(len(seq.token_ids), self._block_size)
        return needed - num_owned <= self._draft.num_free

    def _admit(self, seq: Sequence, shared: list[int]) -> None:
        for block_id in shared:
            self._draft.share(block_id)
        start = len(shared) * self._block_size
        num_tokens = min(len(seq.token_ids) - start, self._budget)
        num_taken = blocks_for(start + num_tokens, self._block_size) - len(shared)
        table = array("i", shared)
        table.extend(self._draft.take() for _ in range(num_taken))
        entry = self._schedule(seq, start, num_tokens, table, num_taken)
        entry.shared_tokens = start
        if self._reserves:
            entry.num_reserved = blocks_needed(seq, self._block_size) - len(table)
            self._num_reserved += entry.num_reserved
        self._num_slots += seq.num_slots
        self._admitted.append(seq)

    def _num_steps(self) -> int:
        """How long the batch stays as it is: until the next length finish or block shortage."""
        if self._preempted or self._admitted or len(self._entries) < len(self._running):
            return 1
        num_steps = _MAX_SPAN_STEPS
        for entry in self._entries:
            if entry.num_tokens > 1 or not entry.num_rows or entry.seq.num_unforked:
                return 1
            num_steps = min(num_steps, entry.seq.max_len - len(entry.seq.token_ids))
        while num_steps > 1 and self._num_ahead(num_steps) > self._draft.num_free:
            num_steps //= 2
        return num_steps

    def _num_ahead(self, num_steps: int) -> int:
        return sum(self._ahead(entry, num_steps) for entry in self._entries)

    def _ahead(self, entry: ScheduledSequence, num_steps: int) -> int:
        """Blocks to take beyond those of the first step."""
        total = blocks_for(entry.start + num_steps, self._block_size)
        return max(0, total - len(entry.block_ids))

    def _take_ahead(self, num_steps: int) -> None:
        for entry in self._entries:
            ahead = self._ahead(entry, num_steps)
            if ahead:
                if not entry.num_taken:
                    entry.block_ids = array("i", entry.block_ids)
                entry.block_ids.extend(self._draft.take() for _ in range(ahead))
                entry.num_taken += ahead
