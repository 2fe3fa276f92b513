"""The sequences that decode: who they are, and in which order a batch holds them."""

from collections.abc import Iterator

from thothy_batch.engine.core.sequence import Sequence

_Place = tuple[tuple[int, ...], int, int]


class DecodeSet:
    """Sequences that share a beginning stand side by side in `rows`, so that attention can read
    it once for all of them. Adding and removing cost the same at any size."""

    def __init__(self) -> None:
        # A row keeps its place while it decodes.
        self._places: dict[Sequence, _Place] = {}
        self._sharers: dict[Sequence, None] = {}
        self._rows: list[Sequence] | None = []
        self._sharing_rows: list[Sequence] | None = []

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._places)

    def __contains__(self, seq: Sequence) -> bool:
        return seq in self._places

    def add(self, seq: Sequence) -> None:
        state = seq.state
        path = tuple([prefix.prefix_id for prefix in state.prefixes])
        self._places[seq] = path, state.request.request_id, seq.sample
        self._rows = None
        if path or state.request.num_samples > 1:
            self._sharers[seq] = None
            self._sharing_rows = None

    def remove(self, seq: Sequence) -> None:
        del self._places[seq]
        self._rows = None
        if self._sharers.pop(seq, seq) is None:
            self._sharing_rows = None

    @property
    def rows(self) -> list[Sequence]:
        """In the order of the batch; the same list until somebody comes or goes."""
        if self._rows is None:
            self._rows = sorted(self._places, key=self._places.__getitem__)
        return self._rows

    @property
    def sharing_rows(self) -> list[Sequence]:
        """Of the rows those that may have a beginning in common with others, in the same order;
        the same list until one of them comes or goes."""
        if self._sharing_rows is None:
            self._sharing_rows = sorted(self._sharers, key=self._places.__getitem__)
        return self._sharing_rows
