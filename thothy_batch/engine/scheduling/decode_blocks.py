"""Decode blocks: gives decoding sequences their next blocks, preempting others if the pool is full.

The youngest sequence is preempted first, so the oldest always advances. Pinned prefixes are evicted
only once a single sequence is left.
"""

from thothy_batch.engine.core.config import EngineConfig
from thothy_batch.engine.core.sequence import Sequence, SequenceStatus
from thothy_batch.engine.kv_cache.allocator import KVAllocator
from thothy_batch.engine.kv_cache.pinned_prefixes import PinnedPrefixes
from thothy_batch.engine.scheduling.pending_copies import PendingCopies
from thothy_batch.engine.scheduling.running_set import RunningSet
from thothy_batch.engine.scheduling.scheduled_batch import ScheduledBatch
from thothy_batch.engine.scheduling.waiting_queue import WaitingQueue


class DecodeBlocks:
    """Grows block tables before each decision.

    `grow_ahead`: steps before a sequence needs a block that it gets it, if one is free.
    """

    def __init__(
        self,
        config: EngineConfig,
        waiting: WaitingQueue,
        running: RunningSet,
        kv: KVAllocator,
        pinned: PinnedPrefixes,
        copies: PendingCopies,
        grow_ahead: int,
    ) -> None:
        self._config = config
        self._waiting = waiting
        self._running = running
        self._kv = kv
        self._pinned = pinned
        self._copies = copies
        # Windows slide as sequences advance: with one, no block is allocated early.
        has_window = any(group.window is not None for group in config.layout.groups)
        self._grow_ahead = 0 if has_window else grow_ahead
        self.num_preempted = 0  # not committed yet

    def ensure_next(self, batch: ScheduledBatch, *, may_preempt: bool) -> bool:
        """Give a block to every sequence whose next token needs one.

        Returns False if a block is missing and `may_preempt` is False; a second call continues.
        """
        while not self._running.num_safe_steps:
            seq = self._running.due
            while seq.is_decoding and not self._kv.grow(seq):
                if not may_preempt:
                    return False
                self._free_blocks_for(seq, batch)
            self._running.pop_next_need()
        return True

    def grow_early(self) -> None:
        """Give blocks to sequences that need one soon, while there are free ones."""
        while (seq := self._running.next_need(self._grow_ahead)) is not None:
            if not self._kv.grow(seq, self._running.num_steps_to_need):
                break
            self._running.mark_satisfied()

    def requeue(self, seq: Sequence, *, remember: bool) -> None:
        """Put a running sequence back at the head of its line, without blocks.

        `remember`: keep its computed blocks findable by content.
        """
        self._running.remove(seq)
        self._copies.drop(seq)
        self._kv.release(seq, remember=remember)
        seq.status, seq.num_prefilled = SequenceStatus.WAITING, 0
        self._waiting.put_back(seq)

    def _free_blocks_for(self, seq: Sequence, batch: ScheduledBatch) -> None:
        if len(self._running) > 1:
            self._preempt(self._running.youngest, batch)
        elif not self._evict_pinned(seq):
            # Its blocks lie scattered over split pages: recomputing it allocates them compactly.
            self._preempt(seq, batch)
            seq.expected_len = seq.max_len

    def _evict_pinned(self, seq: Sequence) -> bool:
        """Evict pinned prefixes, those on the sequence's path last; False if there were none."""
        return self._pinned.evict_except(seq.state.prefixes) or self._pinned.evict_except(())

    def _preempt(self, seq: Sequence, batch: ScheduledBatch) -> None:
        seq.num_ever_computed = max(seq.num_ever_computed, seq.num_computed)
        self.requeue(seq, remember=True)
        # It may well outgrow its expected length again.
        seq.expected_len = seq.max_len
        if self._config.admission == "optimistic":
            seq.expected_len = min(seq.max_len, seq.num_tokens + 1)
        batch.preempted.append(seq)
        self.num_preempted += 1
