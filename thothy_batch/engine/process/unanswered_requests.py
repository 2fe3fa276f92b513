"""Requests that were submitted to a supervised engine and are not answered."""

from collections import deque
from collections.abc import Callable, Collection, Sequence

from thothy_batch.records import Request


class UnansweredRequests:
    """Those in the current engine, in the order of submission, and those held for the next one."""

    def __init__(self) -> None:
        self._in_engine: dict[int, Request] = {}
        self._held: deque[Request] = deque()
        self.most_samples = 0  # of any request so far

    @property
    def num_held(self) -> int:
        return len(self._held)

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
        """Take requests that are to be submitted."""
        self._held.extend(requests)
        self.most_samples = max([self.most_samples, *(each.num_samples for each in requests)])

    def submit(
        self, may_run: Callable[[int], bool], submit: Callable[[Sequence[Request]], None]
    ) -> None:
        """Submit the held requests that may run. Where `submit` raises, all stay held."""
        batch = {each.request_id: each for each in self._held if may_run(each.request_id)}
        if not batch:
            return
        submit(list(batch.values()))
        self._held = deque(each for each in self._held if each.request_id not in batch)
        self._in_engine |= batch

    def pop(self, request_id: int) -> Request:
        """Remove one that the engine answered or gave back."""
        return self._in_engine.pop(request_id)

    def requeue(self) -> None:
        """The engine is gone: hold its requests, before all others and in their order."""
        self._held.extendleft(reversed(self._in_engine.values()))
        self._in_engine.clear()

    def drop_held(self, request_ids: Collection[int] | None = None) -> list[Request]:
        """Remove and return held requests: those named, or all."""
        dropped: list[Request] = []
        kept: deque[Request] = deque()
        for each in self._held:
            is_dropped = request_ids is None or each.request_id in request_ids
            (dropped if is_dropped else kept).append(each)
        self._held = kept
        return dropped
