"""Continuous batching: `schedule` decides on a span, `commit` puts a computed step into force.

Knows tokens, blocks and queues; no tensors and no text. A span whose forward pass failed is
abandoned: sequences, queues and counts are as before, and the step can be scheduled again.
"""

from collections.abc import Callable, Iterable, Iterator
from collections.abc import Sequence as Seq

from thothy_batch.engine.block_manager import BlockManager
from thothy_batch.engine.config import EngineConfig
from thothy_batch.engine.scheduling_pass import SchedulingPass, blocks_needed, blocks_of_fork
from thothy_batch.engine.sequence import Sequence, SequenceStatus
from thothy_batch.engine.span import ScheduledSequence, Span, StepOutcome
from thothy_batch.engine.waiting_queue import WaitingQueue
from thothy_batch.records import FinishReason

StopRule = Callable[[Sequence], FinishReason | None]


class Scheduler:
    """The queues and the pool's books. `stop_rule` says of a sequence whether it has ended."""

    def __init__(self, config: EngineConfig, stop_rule: StopRule) -> None:
        self._config = config
        self._stop_rule = stop_rule
        self._blocks = BlockManager(config.num_blocks, config.block_size)
        self._waiting = WaitingQueue()
        self._running: list[Sequence] = []  # oldest admission first

    @property
    def num_running(self) -> int:
        """Sequences, not requests."""
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        """Sequences that wait to be admitted, preempted ones among them."""
        return len(self._waiting)

    @property
    def blocks_used(self) -> int:
        return self._blocks.num_used

    @property
    def has_work(self) -> bool:
        return bool(self._running) or len(self._waiting) > 0

    def add(self, seq: Sequence) -> None:
        """Queue a sequence that fits the pool alone, with its forks: see `fits`."""
        self._waiting.append(seq)

    def fits(self, seq: Sequence) -> bool:
        return blocks_needed(seq, self._config.block_size) <= self._config.num_blocks

    def drop_unstarted(self) -> int:
        """Forget who was never admitted; returns how many."""
        return self._waiting.drop_unstarted()

    def schedule(self) -> Span:
        """Decide on the next span. Changes nothing: asked twice, it answers the same."""
        span = SchedulingPass(self._config, self._blocks, self._running, self._waiting).run()
        assert span.entries or not self.has_work, "there is work, but none could be scheduled"
        return span

    def commit(
        self, span: Span, token_ids: Iterable[int], *, started_at: float, finished_at: float
    ) -> StepOutcome:
        """Apply one computed step of a span: its decisions (in the first step) and its tokens.

        `token_ids`: one per row of logits, in the order of the entries. Times in seconds since
        engine ready. When a sequence finished, the span ends with this step.
        """
        outcome = StepOutcome()
        if not span.num_done:
            self._apply(span, started_at, outcome)
        rows = iter(token_ids)
        for entry in span.entries:
            seq = entry.seq
            if (
                entry.num_tokens == 1
                and seq.num_computed == seq.num_ever_computed >= seq.prompt_len
            ):
                self._decode(seq, next(rows), outcome)
            else:
                self._advance(entry, outcome)
                self._draw(entry, rows, outcome)
        span.num_done += 1
        if outcome.finished:
            self._finish(outcome.finished, finished_at)
            span.num_steps = span.num_done
        return outcome

    def abandon(self, span: Span) -> None:
        """Drop a span whose step failed; the steps before it stay committed."""
        if not span.num_done:
            self._blocks.abandon(span.draft)

    def check_integrity(self) -> None:
        """Assert that books, queues and sequences agree."""
        self._blocks.check_integrity(seq.block_ids for seq in self._running)
        for seq in self._running:
            assert seq.status is SequenceStatus.RUNNING
            assert seq.num_uncomputed > 0, "a running sequence has a token to compute"
            assert len(seq.block_ids) * self._config.block_size >= seq.num_computed
            assert len(seq.token_ids) < seq.max_len or seq.num_output == 0
        for seq in self._waiting:
            assert seq.status is SequenceStatus.WAITING
            assert not seq.block_ids, "a waiting sequence holds blocks"
            assert not seq.num_computed
        reserved = sum(seq.num_reserved for seq in self._running)
        assert reserved <= self._blocks.num_free, "more is reserved than is free"

    def _apply(self, span: Span, now: float, outcome: StepOutcome) -> None:
        self._blocks.apply(span.draft)
        for seq in span.preempted:
            self._running.remove(seq)
            self._preempt(seq)
        outcome.num_preempted = len(span.preempted)
        for entry in span.entries:
            seq = entry.seq
            if entry.num_taken or entry.shared_tokens:
                seq.block_ids = entry.block_ids
                seq.num_reserved -= min(entry.num_taken, seq.num_reserved)
            # What it borrowed is copied by now, or its own: no other reader was left.
            seq.borrows_last_block = False
            if seq.status is SequenceStatus.WAITING:
                self._admit(entry, now, outcome)

    def _admit(self, entry: ScheduledSequence, now: float, outcome: StepOutcome) -> None:
        seq = entry.seq
        if seq.state.started_at is None:
            seq.state.started_at = now
            outcome.num_started += 1
        self._waiting.remove_head(seq)
        self._running.append(seq)
        seq.status = SequenceStatus.RUNNING
        seq.num_reserved = entry.num_reserved
        seq.num_computed = entry.shared_tokens
        # After a preemption only what lies beyond the farthest it ever got counts as shared.
        cached = min(entry.shared_tokens, seq.prompt_len) - seq.num_ever_computed
        if cached > 0:
            seq.state.cached_prompt_tokens += cached
            outcome.cached_tokens += cached
        seq.num_ever_computed = max(seq.num_ever_computed, entry.shared_tokens)

    def _preempt(self, seq: Sequence) -> None:
        """Back to the head of the queue; the draft has released the blocks."""
        del seq.block_ids[:]
        seq.status = SequenceStatus.WAITING
        seq.num_computed = 0
        seq.borrows_last_block = False
        self._waiting.put_back(seq)

    def _advance(self, entry: ScheduledSequence, outcome: StepOutcome) -> None:
        """Count the tokens that were computed."""
        seq, num_tokens = entry.seq, entry.num_tokens
        start, known = seq.num_computed, seq.num_ever_computed
        end = seq.num_computed = start + num_tokens
        if start < known:
            recomputed = min(end, known) - start
            outcome.recomputed_tokens += recomputed
            seq.state.wasted_tokens += recomputed
            start += recomputed
        if end > known:
            seq.num_ever_computed = end
        prefill = max(0, min(end, seq.prompt_len) - start)
        outcome.prefill_tokens += prefill
        outcome.decode_tokens += end - start - prefill
        if num_tokens == 1:
            self._register_if_full(seq)

    def _decode(self, seq: Sequence, token_id: int, outcome: StepOutcome) -> None:
        """`_advance` and `_draw` for the common case: one token, never computed before."""
        seq.num_computed += 1
        seq.num_ever_computed = seq.num_computed
        self._register_if_full(seq)
        outcome.decode_tokens += 1
        self._append(seq, token_id, outcome)

    def _register_if_full(self, seq: Sequence) -> None:
        """Make the last computed block findable when it is complete."""
        block_size = self._config.block_size
        if not seq.num_computed % block_size and self._config.prefix_sharing:
            index = seq.num_computed // block_size - 1
            self._blocks.register(seq.block_hash(index, block_size), seq.block_ids[index])

    def _draw(self, entry: ScheduledSequence, rows: Iterator[int], outcome: StepOutcome) -> None:
        """Append the tokens that were drawn; at the end of a prompt the samples part here."""
        if entry.num_rows:
            seq = entry.seq
            group = [seq, *self._fork(seq)] if seq.num_unforked else [seq]
            for member in group:
                self._append(member, next(rows), outcome)

    def _append(self, seq: Sequence, token_id: int, outcome: StepOutcome) -> None:
        seq.token_ids.append(token_id)
        outcome.output_tokens += 1
        reason = self._stop_rule(seq)
        if reason is not None:
            seq.finish_reason = reason
            outcome.finished.append(seq)

    def _fork(self, seq: Sequence) -> list[Sequence]:
        """The other samples of a computed prompt. The origin writes on in its last block; the
        others see the part that they share, and copy it before they write."""
        block_size = self._config.block_size
        reserve = blocks_of_fork(seq, block_size) if seq.num_reserved else 0
        # Blocks beyond the computed tokens are never there: spans are taken ahead in decode only.
        forks = [seq.fork(sample) for sample in range(1, seq.num_slots)]
        for fork in forks:
            self._blocks.share(fork.block_ids)
            fork.borrows_last_block = seq.num_computed % block_size > 0
            fork.num_reserved = reserve
            seq.num_reserved -= reserve
        seq.num_unforked = 0
        index = self._running.index(seq) + 1
        self._running[index:index] = forks
        return forks

    def _finish(self, finished: Seq[Sequence], now: float) -> None:
        for seq in finished:
            seq.status = SequenceStatus.FINISHED
            self._blocks.release(seq.block_ids)
            del seq.block_ids[:]
            seq.num_reserved = 0
            seq.state.output_tokens += seq.num_output
            seq.state.finished_at = now
        self._running = [seq for seq in self._running if seq.status is SequenceStatus.RUNNING]
