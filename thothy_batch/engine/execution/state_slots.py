"""State slots: row numbers of the device's state table, one per running sequence."""

from collections.abc import Iterable

from thothy_batch.engine.core.sequence import Sequence

_Key = tuple[int, int]  # request id, sample


class StateSlots:
    """Assigns slots from 0 on.

    A sequence keeps its slot from its first drawn token until it finishes or is preempted.
    """

    def __init__(self) -> None:
        self._slots: dict[_Key, int] = {}
        self._free: list[int] = []
        self._num_slots = 0

    def of(self, seq: Sequence, sample: int) -> int:
        """Return the slot of a sequence, or of a sample that will be forked from it."""
        key = seq.state.request.request_id, sample
        slot = self._slots.get(key)
        if slot is None:
            slot = self._slots[key] = self._assign()
        return slot

    def free(self, seqs: Iterable[Sequence]) -> None:
        """Free the slots of sequences. The device computes in order, so they can be reused now."""
        for seq in seqs:
            self._release((seq.state.request.request_id, seq.sample))

    def free_samples(self, seq: Sequence) -> None:
        """Free the slots of a sequence and of all samples still to be forked from it."""
        for sample in range(seq.sample, seq.sample + seq.num_slots):
            self._release((seq.state.request.request_id, sample))

    def _assign(self) -> int:
        if self._free:
            return self._free.pop()
        self._num_slots += 1
        return self._num_slots - 1

    def _release(self, key: _Key) -> None:
        slot = self._slots.pop(key, None)
        if slot is not None:
            self._free.append(slot)
