"""Counts the planned readers of shared prefixes that a later engine must not wait for."""

from collections import Counter
from collections.abc import Iterable

from thothy_batch.records import Request, Sampling, SharedPrefix


class CancelledReaders:
    """A new engine expects every planned reader of a prefix; these will not be submitted to it."""

    def __init__(self) -> None:
        self._num: Counter[tuple[SharedPrefix, ...]] = Counter()

    def add(self, requests: Iterable[Request]) -> None:
        """Count requests that were finished, cancelled or given back."""
        self._num.update(each.prefixes for each in requests if each.prefixes)

    def stubs(self) -> list[Request]:
        """One request without a prompt for each of them, for a new engine's `cancel`."""
        stubs: list[Request] = []
        for path, num in self._num.items():
            stubs += [Request(-1, "", (), Sampling(), prefixes=path)] * num  # sent as one object
        return stubs
