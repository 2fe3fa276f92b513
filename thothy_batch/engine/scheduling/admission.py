"""Who waits comes in: strictly in order, as soon as there is room for what it is expected to need.

Whoever stands at the head is never overtaken, so nobody starves. While requests come in the order
of the plan, what is kept for later readers lies on the way to the head of the queue, and so leaves
room for it; where they do not, what is kept has to make way once nothing else runs.
"""

from collections.abc import Callable

from thothy_batch.engine.core.config import EngineConfig
from thothy_batch.engine.core.sequence import Sequence
from thothy_batch.engine.kv_cache.allocator import KVAllocator
from thothy_batch.engine.kv_cache.pinned_prefixes import PinnedPrefixes, PrefixHit
from thothy_batch.engine.scheduling.running_set import RunningSet
from thothy_batch.engine.scheduling.waiting_queue import WaitingQueue

# Rows that may stay empty, of those that run, while prompts are gathered for a step.
_IDLE_SHARE = 1 / 16
# Blocks kept free for rows that outgrow what was expected of them: at most this share of the pool.
_RESERVE_SHARE = 1 / 16


class Admission:
    """Moves sequences from the queue to the running ones, with their blocks.

    `may_start`: whether a sequence of which so many tokens are there already is worth being started
    now; it is set aside otherwise.
    """

    def __init__(
        self,
        config: EngineConfig,
        waiting: WaitingQueue,
        running: RunningSet,
        kv: KVAllocator,
        kept: PinnedPrefixes,
        can_finish_in_time: Callable[[Sequence, int], bool],
    ) -> None:
        self._config = config
        self._waiting = waiting
        self._running = running
        self._kv = kv
        self._kept = kept
        self._may_start = can_finish_in_time
        self.max_rows = config.max_seqs

    def admit_next(self) -> Sequence | None:
        """Admit the head of the queue; None where nobody waits or it has to wait on."""
        while (seq := self._next()) is not None:
            hit = self._kv.find_prefix(seq)
            if self._may_start(seq, hit.num_tokens):
                break
            self._waiting.defer(seq)
        if seq is None:
            return None
        if not self._kv.has_room(seq, hit, self._reserve(seq)):
            if len(self._running):
                return None
            hit = self.evict_pinned_for(seq)
        self._waiting.remove_head(seq)
        self._kv.admit(seq, hit)
        seq.num_prefilled = hit.num_tokens
        self._running.add(seq)
        return seq

    def _next(self) -> Sequence | None:
        """The head of the queue, where there are rows left for it."""
        seq, num_slots = self._waiting.head, self._running.num_slots
        if seq is None or (num_slots and num_slots + seq.num_slots > self.max_rows):
            return None
        return seq

    @property
    def has_bulk(self) -> bool:
        """Whether the prompts that could be admitted now are worth a step.

        On a device a step with prompts is launched kernel by kernel, while steps of rows that
        decode are replayed, several at a time. So prompts wait until there is room for
        `bulk_tokens` of them, unless too many rows would stay empty meanwhile.
        """
        seq, bulk = self._waiting.head, self._config.bulk_tokens
        if not bulk or seq is None or self._running.prompts or not len(self._running.decoding):
            return True
        hit = self._kv.find_prefix(seq)
        free_slots = (self._config.max_seqs - self._running.num_slots) // seq.num_slots
        length = (seq.expected_len - hit.num_tokens) * seq.num_slots
        room = min(len(self._waiting), free_slots, self._kv.num_free_tokens // max(1, length))
        num_tokens = room * (seq.num_tokens - hit.num_tokens)
        is_idle = room * seq.num_slots >= _IDLE_SHARE * len(self._running)
        return num_tokens >= bulk or is_idle or room == len(self._waiting)

    def evict_pinned_for(self, seq: Sequence) -> PrefixHit:
        """Nothing runs, and what is kept for others leaves no room: it has to go."""
        self._kept.evict_except(seq.state.prefixes)
        hit = self._kv.find_prefix(seq)
        if not self._kv.has_room(seq, hit, 0):
            seq.state.is_loner = True
            self._kept.evict_except(())
            hit = self._kv.find_prefix(seq)
            assert self._kv.has_room(seq, hit, 0), "a sequence that fits the pool found no room"
        return hit

    def _reserve(self, seq: Sequence) -> int:
        """Blocks to leave free beside a newcomer, for rows that outgrow what was expected: none
        where all lengths are exact."""
        headroom_blocks = self._running.num_growth + self._running.headroom_blocks(seq)
        most = int(self._config.num_blocks * _RESERVE_SHARE)
        return min(headroom_blocks, most) if len(self._running) else 0
