"""Continuous batching: `schedule` decides on a span, `advance` puts its steps into force.

Knows tokens, blocks and queues; no tensors and no text. Every decoding sequence computes one token
a step; what is left of the step's tokens goes to prompts, the open one first, then to those who
wait, strictly in order: the first that does not fit ends the pass. So at most one prompt is partly
computed at any time, nobody is overtaken but who could not end in time, and nobody starves. Where
a decoding sequence finds no block, the youngest is preempted.

Deciding on a span costs what those cost who come, go or need a block, however many decode.
"""

from collections.abc import Callable, Iterable

from thothy_batch.engine.core.config import EngineConfig
from thothy_batch.engine.core.sequence import Clock, Sequence, SequenceStatus, live_blocks
from thothy_batch.engine.kv_cache.allocator import KVAllocator
from thothy_batch.engine.kv_cache.block_manager import BlockManager, UnsearchedBlocks
from thothy_batch.engine.kv_cache.pinned_prefixes import PinnedPrefixes
from thothy_batch.engine.scheduling.admission import Admission
from thothy_batch.engine.scheduling.pending_copies import PendingCopies
from thothy_batch.engine.scheduling.running_set import RunningSet
from thothy_batch.engine.scheduling.scheduled_batch import PrefillChunk, ScheduledBatch, StepStats
from thothy_batch.engine.scheduling.waiting_queue import WaitingQueue
from thothy_batch.records import Request


class Scheduler:
    """The queues and the pool's books.

    Steps count as soon as they are launched; their tokens may become known later. `settle` reads
    those that are under way: it returns False when there are none. Whoever is preempted must know
    all of its tokens.

    `grow_ahead`: steps before a row needs a block that it takes one, where one is free: spans then
    last so long at least.

    `by_content` False: nothing is found by its content. It costs nobody a token where all requests
    are planned and none is preempted, and saves the hashing of every block.

    `may_start`: who is not worth being started is set aside, until `requeue_deferred`.
    """

    def __init__(
        self,
        config: EngineConfig,
        trim_spare: Callable[[], bool] = lambda: False,
        *,
        by_content: bool = True,
        grow_ahead: int = 0,
        can_finish_in_time: Callable[[Sequence, int], bool] = lambda seq, num_cached: True,
    ) -> None:
        self._config = config
        # Windows slide as rows move on: who has one takes no block before its time.
        has_window = any(group.window is not None for group in config.layout.groups)
        self._grow_ahead = 0 if has_window else grow_ahead
        self.drain_in_flight = trim_spare
        books = BlockManager if by_content else UnsearchedBlocks
        self._blocks = books(config.layout, config.num_pages)
        self._kept = PinnedPrefixes(self._blocks)
        self._kv = KVAllocator(config, self._blocks, self._kept)
        self._waiting = WaitingQueue()
        self._running = RunningSet(config)
        queues = self._waiting, self._running
        self._admission = Admission(config, *queues, self._kv, self._kept, can_finish_in_time)
        self.max_step_tokens = config.max_step_tokens
        self._copies = PendingCopies(self._blocks)
        self._num_preempted = 0  # not reported yet

    @property
    def clock(self) -> Clock:
        return self._running.clock

    @property
    def num_running(self) -> int:
        """Sequences, not requests."""
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        """Sequences that wait to be admitted, preempted ones among them; nobody who is aside."""
        return len(self._waiting)

    @property
    def num_deferred(self) -> int:
        return self._waiting.num_deferred

    @property
    def blocks_used(self) -> int:
        """Blocks of all layers, kept prefixes among them."""
        return self._blocks.num_used

    @property
    def has_work(self) -> bool:
        return len(self._running) + len(self._waiting) > 0

    def sequence_of(self, request: Request) -> Sequence:
        """The sequence that a request begins as; not queued yet."""
        seq = Sequence.first_of(request, self.clock)
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
        """A planned request will not come: its prefixes need not be kept for it."""
        self._kept.cancel_planned(request.prefixes or ())

    def requeue_deferred(self, is_over: Callable[[Sequence], bool]) -> list[Sequence]:
        """Who is aside waits again, but for those that are forgotten and returned."""
        gone = self._waiting.requeue_deferred(is_over)
        for seq in gone:
            self.cancel_planned(seq.state.request)
        return gone

    def limit_steps(self, max_step_tokens: int) -> None:
        """Steps have at most so many tokens from now on, but one for every row that decodes."""
        self.max_step_tokens = min(max_step_tokens, self._config.max_step_tokens)
        self._admission.max_rows = min(self._config.max_seqs, self.max_step_tokens)

    def drop_unstarted(self, is_dropped: Callable[[Sequence], bool]) -> list[Sequence]:
        """Remove and return sequences that were never admitted and that `is_dropped` chooses.
        Nothing stays pinned for them."""
        dropped = self._waiting.drop_unstarted(is_dropped)
        for seq in dropped:
            self._kept.count(seq.state)
        return dropped

    def unpin_all(self) -> None:
        """Drop all pinned prefixes: no planned request will be admitted any more."""
        self._kept.close()

    def schedule(self) -> ScheduledBatch:
        """Decide on the next span, and set its blocks aside."""
        span = ScheduledBatch(self._running.decoding)
        self._running.resume()
        self.ensure_next_block(span)
        budget = max(0, self.max_step_tokens - len(span.decoding))
        for seq in self._running.prompts:
            budget -= self._compute_prompt(seq, budget, span)
        may_admit = not self._num_preempted or not len(self._running)
        if may_admit and self._admission.has_bulk:
            while budget and (admitted := self._admission.admit_next()) is not None:
                span.admitted.append(admitted)
                budget -= self._compute_prompt(admitted, budget, span)
        span.copies = list(self._copies)
        span.num_preempted = self._num_preempted
        if not span.parts:
            span.num_steps = self._running.num_safe_steps
            span.max_steps = self._running.num_steps_to_need
        assert not span.is_empty or not self.has_work, "there is work, but none was scheduled"
        return span

    def advance(self, span: ScheduledBatch, num_steps: int, now: float) -> StepStats:
        """Count `num_steps` steps of a span as computed, each row's next token as drawn. Whose
        last token that was is for the caller to say: see `retire`."""
        outcome = StepStats(num_steps=num_steps)
        if not span.num_done:
            self._start(span, now, outcome)
        num_rows = len(span.decoding) * num_steps
        outcome.decode_tokens += num_rows
        self.clock.steps += num_steps
        span.num_done += num_steps
        for part in span.parts:
            outcome.count(part)
            if part.num_rows:
                outcome.joined += self._end_prompt(part.seq)
        outcome.output_tokens += num_rows + len(outcome.joined)
        return outcome

    def accept_drafted(self, span: ScheduledBatch, outcome: StepStats) -> None:
        """The tokens of a step with drafts are known: count those that drafts came to."""
        outcome.drafted_tokens = span.num_drafted
        for seq, draft in span.drafts.items():
            num_tokens = len(seq.output_ids) - seq.num_output
            seq.state.wasted_tokens += len(draft) - num_tokens
            if num_tokens:
                self._running.accept_drafted(seq, num_tokens)
                outcome.accept(num_tokens)

    def finish(self, seqs: Iterable[Sequence]) -> None:
        """Sequences need no further step: their blocks are free. The span at hand is over, unless
        it has come to its end anyway."""
        for seq in seqs:
            self._take_out(seq)
            seq.status = SequenceStatus.FINISHED
            self._kv.release(seq, remember=False)

    def rollback(self, span: ScheduledBatch) -> None:
        """Drop a span whose step failed; the steps before it stay counted. Who was admitted
        waits again; who was preempted stays so."""
        if span.num_done:
            return
        for part in reversed(span.parts):
            self._kv.rollback(part.covered)
        for seq in reversed(span.admitted):
            self._take_out(seq)
            self._kv.release(seq, remember=False)
            self._wait_again(seq)

    def check_integrity(self) -> None:
        """Assert that books, queues and sequences agree."""
        readers = []
        for g in range(len(self._config.layout.groups)):
            tables = [live_blocks(seq.tables[g]) for seq in self._running]
            tables += [seq.spare[g] for seq in self._running] + self._kept.held(g)
            readers.append(tables + [[source] for group, source, _ in self._copies if group == g])
        self._blocks.check_integrity(readers)
        self._running.check_integrity()
        for seq in self._waiting:
            assert seq.status is SequenceStatus.WAITING
            assert not seq.tables, "a waiting sequence holds blocks"
            assert not seq.num_computed
        idle = not len(self._running) and not self._kept.num_kept
        assert not idle or not self._blocks.num_used, "blocks are in use, but nobody's"

    def ensure_next_block(self, span: ScheduledBatch) -> None:
        """A block for every row whose next token has none; the youngest make way for it."""
        while not self._running.num_safe_steps:
            seq = self._running.pop_next_need()
            while seq.is_decoding and not self._kv.grow(seq):
                if self.drain_in_flight():
                    continue  # somebody may have ended
                if len(self._running) > 1:
                    self._preempt(self._running.youngest, span)
                elif not self._drop_kept(seq):
                    # Its blocks lie scattered over pages that others cut: it takes them anew.
                    self._preempt(seq, span)
                    seq.expected_len = seq.max_len
            if seq.is_decoding:
                self._running.schedule_event(seq)
        while (early := self._running.next_need(self._grow_ahead)) is not None:
            if not self._kv.grow(early, self._running.num_steps_to_need):
                break
            self._running.mark_satisfied()

    def _drop_kept(self, seq: Sequence) -> bool:
        """Drop what is kept for others, at last what lies on this path too; whether there was
        anything."""
        return self._kept.evict_except(seq.state.prefixes) or self._kept.evict_except(())

    def _preempt(self, seq: Sequence, span: ScheduledBatch) -> None:
        self._take_out(seq)
        span.preempted.append(seq)
        self._kv.release(seq, remember=True)
        seq.num_ever_computed = max(seq.num_ever_computed, seq.num_prefilled)
        # It may well outgrow again what was expected.
        seq.expected_len = seq.max_len
        if self._config.admission == "optimistic":
            seq.expected_len = min(seq.max_len, seq.num_tokens + 1)
        self._num_preempted += 1
        self._wait_again(seq)

    def _wait_again(self, seq: Sequence) -> None:
        seq.status, seq.num_prefilled = SequenceStatus.WAITING, 0
        self._waiting.put_back(seq)

    def _take_out(self, seq: Sequence) -> None:
        """Out of the running; it keeps its blocks for now."""
        self._running.take_out(seq)
        self._copies.drop(seq)

    def _compute_prompt(self, seq: Sequence, budget: int, span: ScheduledBatch) -> int:
        """Schedule as much of a prompt as the budget allows; how many tokens."""
        start, num_tokens = seq.num_prefilled, min(seq.num_uncomputed, budget)
        if num_tokens:
            covered = self._kv.prepare(seq, start, start + num_tokens)
            num_rows = seq.num_slots if start + num_tokens == seq.num_tokens else 0
            span.parts.append(PrefillChunk(seq, start, num_tokens, num_rows, covered))
        return num_tokens

    def _start(self, span: ScheduledBatch, now: float, outcome: StepStats) -> None:
        """Put a span's decisions into force: its first step was computed."""
        outcome.num_preempted, self._num_preempted = self._num_preempted, 0
        self._copies.clear()
        for seq in span.admitted:
            state, shared = seq.state, seq.num_prefilled
            if state.started_at is None:
                state.started_at = now
                outcome.num_started += 1
            self._kept.count(state)
            # After a preemption only what lies beyond the farthest it ever got counts as shared.
            cached = max(0, min(shared, seq.prompt_len) - seq.num_ever_computed)
            state.cached_prompt_tokens += cached
            outcome.cached_tokens += cached
            seq.num_ever_computed = max(seq.num_ever_computed, shared)

    def _end_prompt(self, seq: Sequence) -> list[Sequence]:
        """All known tokens are computed and the next one is drawn; the samples part here."""
        forks = [seq.fork(sample) for sample in range(1, seq.num_slots)]
        seq.num_unforked = 0
        if forks:
            self._kv.fork(seq, forks)
            for fork in forks:
                self._copies.add(fork, self._kv.copies(seq, fork))
        group = [seq, *forks]
        for member in group:
            self._kv.trim_spare(member)
        self._running.end_prompt(group)
        return group
