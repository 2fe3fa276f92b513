"""Where a device remembers each running sequence: numbers of a table that lies there."""

from collections.abc import Iterable

from thothy_batch.engine.core.sequence import Sequence

_Key = tuple[int, int]  # request id, sample


class StateSlots:
    """Hands out numbers from 0 on. A sequence keeps its own from its first drawn token until
    it ends or is preempted."""

    def __init__(self) -> None:
        self._slots: dict[_Key, int] = {}
        self._free: list[int] = []
        self._num_slots = 0

    def __len__(self) -> int:
        """Sequences that have one."""
        return len(self._slots)

    def of(self, seq: Sequence, sample: int) -> int:
        """The slot of a sequence, or of a sample that will be forked from it."""
        key = seq.state.request.request_id, sample
        slot = self._slots.get(key)
        if slot is None:
            slot = self._slots[key] = self._take()
        return slot

    def free(self, seqs: Iterable[Sequence]) -> None:
        """The device may forget them. It computes in order: a slot can be used again at once."""
        for seq in seqs:
            self._release((seq.state.request.request_id, seq.sample))

    def free_samples(self, seq: Sequence) -> None:
        """The device may forget all samples that would have been forked from a sequence."""
        for sample in range(seq.sample, seq.sample + seq.num_slots):
            self._release((seq.state.request.request_id, sample))

    def _take(self) -> int:
        if self._free:
            return self._free.pop()
        self._num_slots += 1
        return self._num_slots - 1

    def _release(self, key: _Key) -> None:
        slot = self._slots.pop(key, None)
        if slot is not None:
            self._free.append(slot)
