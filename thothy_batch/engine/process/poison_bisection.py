"""Finds the request that kills the engine, by computing fewer and fewer of those that may.

One death says little: everything that was in flight is tried again. A second one, with some of the
same requests in flight, puts these under suspicion: half of them are computed with nobody beside
them, then half of those that died, until one dies alone. What survives is answered meanwhile, so
no half is computed for nothing. Requests are known by their ids.
"""

from collections.abc import Sequence


class PoisonBisection:
    """Who may be computed now, and who turned out to be the culprit."""

    def __init__(self) -> None:
        self._marked: set[int] = set()  # were in flight at a death, and are not answered since
        self._suspects: list[int] = []  # one of them killed the engine, as far as is known
        self._trial: set[int] | None = None  # who may be computed; None: everybody

    @property
    def is_on(self) -> bool:
        """Whether not everybody may be computed."""
        return self._trial is not None

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

    def settled(self, request_id: int) -> None:
        """A request is answered, given back or given up: whoever killed the engine, it is not in
        flight any more."""
        self._marked.discard(request_id)
        if self._trial is None:
            return
        if request_id in self._trial:
            self._trial.remove(request_id)
            self._suspects.remove(request_id)
        if not self._trial:
            self._try_half()

    def _try_half(self) -> None:
        half = -(-len(self._suspects) // 2)
        # None left: they were all innocent, and so is everybody until the next death.
        self._trial = set(self._suspects[:half]) if half else None
