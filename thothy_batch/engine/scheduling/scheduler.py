"""Scheduler for continuous batching: `schedule` decides on a batch, `commit` applies its steps.

Knows tokens, blocks and queues; no tensors and no text. Every decoding sequence computes one token
a step. The rest of the step's tokens goes to prompts: first the partially prefilled one, then
waiting ones strictly in order, up to the first that does not fit. So at most one prompt is
partially prefilled at a time; only requests that would miss their deadline are skipped, and
nothing starves. If a decoding sequence finds no block, the youngest sequence is preempted.

The cost of a decision depends on the sequences that are admitted, end or need a block, not on the
number that decode.
"""

from collections.abc import Callable, Iterable

from thothy_batch.engine.core.config import EngineConfig
from thothy_batch.engine.core.sequence import Clock, Sequence, SequenceStatus, live_blocks
from thothy_batch.engine.kv_cache.allocator import KVAllocator
from thothy_batch.engine.kv_cache.block_manager import BlockManager
from thothy_batch.engine.kv_cache.pinned_prefixes import PinnedPrefixes
from thothy_batch.engine.scheduling.admission import Admission
from thothy_batch.engine.scheduling.deadline_gate import DeadlineGate
from thothy_batch.engine.scheduling.decode_blocks import DecodeBlocks
from thothy_batch.engine.scheduling.pending_copies import PendingCopies
from thothy_batch.engine.scheduling.running_set import RunningSet
from thothy_batch.engine.scheduling.scheduled_batch import PrefillChunk, ScheduledBatch, StepStats
from thothy_batch.engine.scheduling.waiting_queue import WaitingQueue
from thothy_batch.records import Request


class Scheduler:
    """Owns the queues and the pool's bookkeeping.

    Steps are committed when they are launched; their tokens may become known later.

    `prefix_lookup` False: no block is found by its content. That costs no token where all requests
    are planned and none is preempted, and saves hashing every block.

    `grow_ahead`: a sequence gets its next block this many steps early if one is free, so that
    batches last at least as long.

    `gate`: defers sequences that would miss their deadline, until `requeue_deferred`.
    """

    def __init__(
        self,
        config: EngineConfig,
        *,
        prefix_lookup: bool = True,
        grow_ahead: int = 0,
        gate: DeadlineGate | None = None,
    ) -> None:
        self._config = config
        self._gate = gate
        self._blocks = BlockManager(config.layout, config.num_pages, prefix_lookup=prefix_lookup)
        self._pinned = PinnedPrefixes(self._blocks)
        self._kv = KVAllocator(config, self._blocks, self._pinned)
        self._waiting = WaitingQueue()
        self._running = RunningSet(config)
        self._copies = PendingCopies(self._blocks)
        wiring = config, self._waiting, self._running, self._kv, self._pinned
        self._admission = Admission(*wiring, gate)
        self._decode_blocks = DecodeBlocks(*wiring, self._copies, grow_ahead)
        self.max_step_tokens = config.max_step_tokens
        self._was_short = False  # the last decision

    @property
    def clock(self) -> Clock:
        return self._running.clock

    @property
    def num_running(self) -> int:
        """Sequences, not requests."""
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        """Sequences to be admitted: preempted ones included, deferred ones not."""
        return len(self._waiting)

    @property
    def num_deferred(self) -> int:
        return self._waiting.num_deferred

    @property
    def blocks_used(self) -> int:
        """Blocks of all layers, pinned prefixes included."""
        return self._blocks.num_used

    @property
    def has_work(self) -> bool:
        return len(self._running) + len(self._waiting) > 0

    def sequence_of(self, request: Request) -> Sequence:
        """Create the first sequence of a request; it is not queued yet."""
        seq = Sequence.first_of(request, self.clock, self._config.short_rope_len)
        if self._config.admission == "optimistic":
            seq.expected_len = min(seq.max_len, seq.prompt_len + 1)
        return seq

    def add(self, seq: Sequence) -> None:
        """Queue a sequence that fits the pool alone, with its forks: see `fits`."""
        self._waiting.append(seq)

    def fits(self, seq: Sequence) -> bool:
        layout, step = self._config.layout, min(seq.max_len, self._config.max_step_tokens)
        needs = layout.needs(seq.prompt_len, seq.max_len, seq.max_len, seq.num_slots, step)
        return layout.pages_for(needs) <= self._config.num_pages

    def cancel_planned(self, request: Request) -> None:
        """Stop keeping prefixes for a planned request that will not arrive."""
        self._pinned.cancel_planned(request.prefixes or ())

    def requeue_deferred(self) -> list[Sequence]:
        """Queue deferred sequences again; drops and returns those past their deadline."""
        assert self._gate is not None, "only the gate defers"
        return self._dropped(self._waiting.requeue_deferred(self._gate.is_expired))

    def drop_deferred(self) -> list[Sequence]:
        """Drop and return all deferred sequences."""
        return self._dropped(self._waiting.drop_deferred())

    def limit_steps(self, max_step_tokens: int) -> None:
        """Limit the tokens of later steps; every decoding sequence still gets its one."""
        self.max_step_tokens = min(max_step_tokens, self._config.max_step_tokens)
        self._admission.max_seqs = min(self._config.max_seqs, self.max_step_tokens)

    def drop_unstarted(self, is_dropped: Callable[[Sequence], bool]) -> list[Sequence]:
        """Drop and return the sequences that `is_dropped` selects and that were never admitted.

        No prefix stays pinned for them.
        """
        dropped = self._waiting.drop_unstarted(is_dropped)
        for seq in dropped:
            self._pinned.count(seq.state)
        return dropped

    def unpin_all(self) -> None:
        """Unpin all prefixes for good: no planned request will be admitted any more."""
        self._pinned.close()

    def schedule(self, *, tokens_known: bool = True) -> ScheduledBatch:
        """Decide on the next batch and allocate its blocks.

        `tokens_known` False: launched tokens are unread, so nothing can be preempted, since a
        preempted sequence must know all of its tokens. If a block is missing then, the result
        `is_short`: the caller reads the tokens, whereby sequences may finish, and calls again.
        """
        batch = ScheduledBatch(self._running.decoding)
        if not self._was_short:  # a second call decides for the decoding sequences of the first
            self._running.resume()
        batch.is_short = not self._decode_blocks.ensure_next(batch, may_preempt=tokens_known)
        self._was_short = batch.is_short
        if batch.is_short:
            return batch
        self._decode_blocks.grow_early()
        batch.num_preempted = self._decode_blocks.num_preempted
        self._add_prompts(batch)
        batch.copies = list(self._copies)
        if not batch.chunks:
            batch.num_steps = self._running.num_safe_steps
            batch.max_steps = self._running.num_steps_to_need
        assert not batch.is_empty or not self.has_work, "work is left, but none was scheduled"
        return batch

    def commit(self, batch: ScheduledBatch, num_steps: int, now: float) -> StepStats:
        """Count `num_steps` steps of a batch as computed, and each sequence's next token as drawn.

        The caller decides which sequences end with it: see `finish`.
        """
        stats = StepStats(num_steps=num_steps)
        if not batch.num_done:
            self._start(batch, now, stats)
        num_decoded = len(batch.decoding) * num_steps
        stats.decode_tokens += num_decoded
        self.clock.steps += num_steps
        batch.num_done += num_steps
        for chunk in batch.chunks:
            stats.count_chunk(chunk)
            if chunk.num_rows:
                stats.joined += self._finish_prefill(chunk.seq)
        stats.output_tokens += num_decoded + len(stats.joined)
        return stats

    def accept_drafted(self, batch: ScheduledBatch, stats: StepStats) -> None:
        """Count the accepted draft tokens of a step whose tokens are known."""
        stats.drafted_tokens = batch.num_drafted
        for seq, draft in batch.drafts.items():
            num_tokens = len(seq.output_ids) - seq.num_output
            seq.state.wasted_tokens += len(draft) - num_tokens
            if num_tokens:
                self._running.accept_drafted(seq, num_tokens)
                stats.count_accepted(num_tokens)

    def finish(self, seqs: Iterable[Sequence]) -> None:
        """Free the blocks of sequences that need no further step. Ends the current batch."""
        for seq in seqs:
            self._running.remove(seq)
            self._copies.drop(seq)
            seq.status = SequenceStatus.FINISHED
            self._kv.release(seq, remember=False)

    def rollback(self, batch: ScheduledBatch) -> None:
        """Undo a batch whose step failed; steps before it stay counted.

        Admitted sequences wait again; preempted ones stay preempted.
        """
        if batch.num_done:
            return
        for chunk in reversed(batch.chunks):
            self._kv.rollback(chunk.prepared)
        for seq in reversed(batch.admitted):
            self._decode_blocks.requeue(seq, remember=False)

    def check_integrity(self) -> None:
        """Assert that block counts, queues and sequences agree."""
        readers = []
        for g in range(len(self._config.layout.groups)):
            tables = [live_blocks(seq.tables[g]) for seq in self._running]
            tables += [seq.spare[g] for seq in self._running] + self._pinned.tables(g)
            readers.append(tables + [[source] for group, source, _ in self._copies if group == g])
        self._blocks.check_integrity(readers)
        self._running.check_integrity()
        for seq in self._waiting:
            assert seq.status is SequenceStatus.WAITING
            assert not seq.tables, "a waiting sequence holds blocks"
            assert not seq.num_computed
        idle = not len(self._running) and not self._pinned.num_pinned
        assert not idle or not self._blocks.num_used, "blocks are in use without a reader"

    def _dropped(self, seqs: list[Sequence]) -> list[Sequence]:
        for seq in seqs:
            self.cancel_planned(seq.state.request)
        return seqs

    def _add_prompts(self, batch: ScheduledBatch) -> None:
        """Fill the step's tokens with the prefilling prompts, then with newly admitted ones.

        A batch that preempts admits nothing, unless nothing is left running.
        """
        budget = max(0, self.max_step_tokens - len(batch.decoding))
        for seq in self._running.prefilling:
            budget -= self._add_chunk(seq, budget, batch)
        may_admit = not batch.num_preempted or not len(self._running)
        if may_admit and self._admission.has_bulk:
            while budget and (admitted := self._admission.admit_next()) is not None:
                batch.admitted.append(admitted)
                budget -= self._add_chunk(admitted, budget, batch)

    def _add_chunk(self, seq: Sequence, budget: int, batch: ScheduledBatch) -> int:
        """Schedule as much of a prompt as the budget allows; returns its tokens."""
        start, num_tokens = seq.num_prefilled, min(seq.num_uncomputed, budget)
        if num_tokens:
            prepared = self._kv.prepare(seq, start, start + num_tokens)
            num_rows = seq.num_slots if start + num_tokens == seq.num_tokens else 0
            batch.chunks.append(PrefillChunk(seq, start, num_tokens, num_rows, prepared))
        return num_tokens

    def _start(self, batch: ScheduledBatch, now: float, stats: StepStats) -> None:
        """Apply a batch's decisions once its first step is computed."""
        stats.num_preempted, self._decode_blocks.num_preempted = batch.num_preempted, 0
        self._copies.clear()
        for seq in batch.admitted:
            state, shared = seq.state, seq.num_prefilled
            if state.started_at is None:
                state.started_at = now
                stats.num_started += 1
            self._pinned.count(state)
            # After a preemption only tokens it had not computed before count as cached.
            cached = max(0, min(shared, seq.prompt_len) - seq.num_ever_computed)
            state.cached_prompt_tokens += cached
            stats.cached_tokens += cached
            seq.num_ever_computed = max(seq.num_ever_computed, shared)

    def _finish_prefill(self, seq: Sequence) -> list[Sequence]:
        """Fork the samples of a computed prompt; each draws its next token."""
        forks = [seq.fork(sample) for sample in range(1, seq.num_slots)]
        seq.num_unforked = 0
        if forks:
            self._kv.fork(seq, forks)
            for fork in forks:
                self._copies.add(fork, self._kv.copies(seq, fork))
        group = [seq, *forks]
        for member in group:
            self._kv.trim_spare(member)
        self._running.finish_prefill(group)
        return group
