"""Finds the request that kills the engine, by computing fewer and fewer of those that may.

One death says little: everything that was in flight is tried again. A second one, with some of the
same requests in flight, makes these suspects: half of them are computed with nothing beside them,
then half of those that died, until one dies alone. The others finish meanwhile, so no half is
computed in vain. Requests are known by their ids.
"""

from collections.abc import Sequence


class PoisonBisection:
    """Decides which requests may be computed now, and names the culprit once it is certain."""

    def __init__(self) -> None:
        self._marked: set[int] = set()  # were in flight at a death, and have not ended since
        self._suspects: list[int] = []  # one of them killed the engine, as far as is known
        self._trial: set[int] | None = None  # the only ones to be computed; None: all may be

    def may_run(self, request_id: int) -> bool:
        return self._trial is None or request_id in self._trial

    def died(self, in_flight: Sequence[int]) -> int | None:
        """The engine died with these in flight, in the order in which they were submitted. Returns
        the one that killed it, once that is certain: it died alone, and not for the first time."""
        if not in_flight:
            return None
        again = [i for i in in_flight if i in self._marked]
        self._marked.update(in_flight)
        if not again:
            return None
        if len(in_flight) == 1:
            # That explains every death so far.
            self._marked.discard(again[0])
            self._suspects, self._trial = [], None
            return again[0]
        self._suspects = again
        self._try_half()
        return None

    def remove(self, request_id: int) -> None:
        """A request has ended and will not be in flight again: finished, given back or given up."""
        self._marked.discard(request_id)
        if self._trial is None:
            return
        if request_id in self._suspects:
            self._suspects.remove(request_id)
        self._trial.discard(request_id)
        if not self._trial:
            self._try_half()

    def _try_half(self) -> None:
        half = -(-len(self._suspects) // 2)
        # None are left: all were innocent, and so is every request until the next death.
        self._trial = set(self._suspects[:half]) if half else None
