"""Admits waiting sequences in queue order once enough blocks are free for their expected length.

The head of the queue is never bypassed, so nothing starves. In plan order the pinned prefixes are
ancestors of the next request and never block it; in any other order they are evicted once nothing
runs.
"""

from thothy_batch.engine.core.config import EngineConfig
from thothy_batch.engine.core.sequence import Sequence
from thothy_batch.engine.kv_cache.allocator import KVAllocator
from thothy_batch.engine.kv_cache.pinned_prefixes import PinnedPrefixes, PrefixHit
from thothy_batch.engine.scheduling.deadline_gate import DeadlineGate
from thothy_batch.engine.scheduling.running_set import RunningSet
from thothy_batch.engine.scheduling.waiting_queue import WaitingQueue

# Share of the running sequences' places that may stay empty while prompts are gathered for a step.
_IDLE_SHARE = 1 / 16
# Most blocks kept free for sequences that outgrow their expected length, as a share of the pool.
_RESERVE_SHARE = 1 / 16


class Admission:
    """Moves sequences from the queue to the running set, with their blocks.

    `gate`: defers sequences that would miss their deadline; None: no request has one.
    """

    def __init__(
        self,
        config: EngineConfig,
        waiting: WaitingQueue,
        running: RunningSet,
        kv: KVAllocator,
        pinned: PinnedPrefixes,
        gate: DeadlineGate | None,
    ) -> None:
        self._config = config
        self._waiting = waiting
        self._running = running
        self._kv = kv
        self._pinned = pinned
        self._gate = gate
        self.max_seqs = config.max_seqs

    def admit_next(self) -> Sequence | None:
        """Admit the head of the queue; None if the queue is empty or the head must wait."""
        while (seq := self._next()) is not None:
            hit = self._kv.find_prefix(seq)
            if self._can_finish_in_time(seq, hit):
                break
            self._waiting.defer(seq)
        if seq is None:
            return None
        if not self._kv.has_room(seq, hit, self._reserve(seq)):
            if len(self._running):
                return None
            hit = self._evict_pinned_for(seq)
        self._waiting.remove_head(seq)
        self._kv.admit(seq, hit)
        seq.num_prefilled = hit.num_tokens
        self._running.add(seq)
        return seq

    @property
    def has_bulk(self) -> bool:
        """True if the prompts that could be admitted now are worth a step.

        On a device a step with prompts is launched kernel by kernel, while decode steps are
        replayed, several at a time. So prompts wait until `bulk_tokens` of them fit, unless too
        many places would stay empty meanwhile.
        """
        seq, bulk = self._waiting.head, self._config.bulk_tokens
        if not bulk or seq is None or self._running.prefilling or not len(self._running.decoding):
            return True
        hit = self._kv.find_prefix(seq)
        free_slots = (self._config.max_seqs - self._running.num_slots) // seq.num_slots
        length = (seq.expected_len - hit.num_tokens) * seq.num_slots
        room = min(len(self._waiting), free_slots, self._kv.num_free_tokens // max(1, length))
        num_tokens = room * (seq.num_tokens - hit.num_tokens)
        is_idle = room * seq.num_slots >= _IDLE_SHARE * len(self._running)
        return num_tokens >= bulk or is_idle or room == len(self._waiting)

    def _next(self) -> Sequence | None:
        """Return the head of the queue, if the limit of running sequences allows it."""
        seq, num_slots = self._waiting.head, self._running.num_slots
        if seq is None or (num_slots and num_slots + seq.num_slots > self.max_seqs):
            return None
        return seq

    def _can_finish_in_time(self, seq: Sequence, hit: PrefixHit) -> bool:
        if self._gate is None:
            return True
        return self._gate.can_finish_in_time(seq, hit.num_tokens, alone=not len(self._running))

    def _evict_pinned_for(self, seq: Sequence) -> PrefixHit:
        """Evict pinned prefixes until a sequence has room. Nothing may be running."""
        self._pinned.evict_except(seq.state.prefixes)
        hit = self._kv.find_prefix(seq)
        if not self._kv.has_room(seq, hit, 0):
            seq.state.skips_prefixes = True
            self._pinned.evict_except(())
            hit = self._kv.find_prefix(seq)
            assert self._kv.has_room(seq, hit, 0), "a sequence that fits the pool found no room"
        return hit

    def _reserve(self, seq: Sequence) -> int:
        """Return the blocks to leave free for sequences that outgrow their expected length.

        None are needed where all lengths are exact.
        """
        headroom = self._running.num_headroom_blocks + self._running.headroom_blocks(seq)
        most = int(self._config.num_blocks * _RESERVE_SHARE)
        return min(headroom, most) if len(self._running) else 0
