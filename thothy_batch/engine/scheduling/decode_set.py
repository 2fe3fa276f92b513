"""Decode set: the decoding sequences, and their order within a batch."""

from collections.abc import Iterator

from thothy_batch.engine.core.sequence import Sequence

_SortKey = tuple[tuple[int, ...], int, int]  # prefix ids, request id, sample


class DecodeSet:
    """Decoding sequences; those with a common prefix are adjacent in `seqs`.

    So attention can read the prefix once for all of them. Adding and removing take constant time.
    """

    def __init__(self) -> None:
        self._keys: dict[Sequence, _SortKey] = {}  # a sequence keeps its key while it decodes
        self._sharers: dict[Sequence, None] = {}
        self._seqs: list[Sequence] | None = []
        self._sharing_seqs: list[Sequence] | None = []

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._keys)

    def __contains__(self, seq: Sequence) -> bool:
        return seq in self._keys

    def add(self, seq: Sequence) -> None:
        state = seq.state
        path = tuple([prefix.prefix_id for prefix in state.prefixes])
        self._keys[seq] = path, state.request.request_id, seq.sample
        self._seqs = None
        if path or state.request.num_samples > 1:
            self._sharers[seq] = None
            self._sharing_seqs = None

    def remove(self, seq: Sequence) -> None:
        del self._keys[seq]
        self._seqs = None
        if self._sharers.pop(seq, seq) is None:
            self._sharing_seqs = None

    @property
    def seqs(self) -> list[Sequence]:
        """All sequences in batch order; the same list until one is added or removed."""
        if self._seqs is None:
            self._seqs = sorted(self._keys, key=self._keys.__getitem__)
        return self._seqs

    @property
    def sharing_seqs(self) -> list[Sequence]:
        """Sequences that may share a prefix with others, in batch order.

        The same list until one of them is added or removed.
        """
        if self._sharing_seqs is None:
            self._sharing_seqs = sorted(self._sharers, key=self._keys.__getitem__)
        return self._sharing_seqs
