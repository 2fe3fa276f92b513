"""Requests that were submitted to a supervised engine and have not ended."""

from collections import deque
from collections.abc import Callable, Collection, Sequence

from thothy_batch.records import Request


class UnfinishedRequests:
    """Requests in the current engine and those held for the next one, in submission order."""

    def __init__(self) -> None:
        self._in_engine: dict[int, Request] = {}
        self._held: deque[Request] = deque()
        self.most_samples = 0  # of any request so far

    @property
    def num_held(self) -> int:
        return len(self._held)

    @property
    def held(self) -> list[Request]:
        """In the order of submission."""
        return list(self._held)

    @property
    def num_in_engine(self) -> int:
        return len(self._in_engine)

    @property
    def ids_in_engine(self) -> list[int]:
        """In the order of submission."""
        return list(self._in_engine)

    def __len__(self) -> int:
        return len(self._in_engine) + len(self._held)

    def __contains__(self, request_id: int) -> bool:
        """True for one that is in the current engine."""
        return request_id in self._in_engine

    def hold(self, requests: Sequence[Request]) -> None:
        """Hold requests until they are submitted."""
        self._held.extend(requests)
        self.most_samples = max([self.most_samples, *(each.num_samples for each in requests)])

    def submit(
        self, may_run: Callable[[Request], bool], submit: Callable[[Sequence[Request]], None]
    ) -> None:
        """Submit the held requests that may run. Where `submit` raises, all stay held."""
        batch = {each.request_id: each for each in self._held if may_run(each)}
        if not batch:
            return
        submit(list(batch.values()))
        self._held = deque(each for each in self._held if each.request_id not in batch)
        self._in_engine |= batch

    def pop(self, request_id: int) -> Request:
        """Remove one that the engine finished or gave back."""
        return self._in_engine.pop(request_id)

    def requeue(self) -> None:
        """Hold the requests of a dead engine, before all others and in their order."""
        self._held.extendleft(reversed(self._in_engine.values()))
        self._in_engine.clear()

    def drop_held(self, request_ids: Collection[int] | None = None) -> list[Request]:
        """Remove and return held requests: those named, or all."""
        dropped: list[Request] = []
        held: deque[Request] = deque()
        for each in self._held:
            is_dropped = request_ids is None or each.request_id in request_ids
            (dropped if is_dropped else held).append(each)
        self._held = held
        return dropped
