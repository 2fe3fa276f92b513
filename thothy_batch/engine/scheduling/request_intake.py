"""Request intake: validates and queues requests, and counts them until they are complete."""

from collections.abc import Callable, Collection, Iterable
from functools import partial

from thothy_batch.engine.core.config import EngineConfig
from thothy_batch.engine.core.limits import Limits, why_invalid, why_unfit
from thothy_batch.engine.core.sequence import Sequence
from thothy_batch.engine.scheduling.scheduler import Scheduler
from thothy_batch.records import FailureCode, Request, RequestFailure


class RequestIntake:
    """Feeds a scheduler. `max_samples`: most samples of a request; None: any number."""

    def __init__(
        self,
        config: EngineConfig,
        scheduler: Scheduler,
        *,
        vocab_size: int,
        max_samples: int | None,
        has_tokenizer: bool,
    ) -> None:
        self._scheduler = scheduler
        self._limits = Limits.of(config)
        self._why_invalid = partial(
            why_invalid,
            vocab_size=vocab_size,
            max_samples=max_samples,
            has_tokenizer=has_tokenizer,
        )
        self.is_open = True
        self._num_unstarted = 0  # requests in the scheduler
        self._unfinished_ids: set[int] = set()  # unstarted requests included
        self._stopped_ids: list[int] = []  # queued when admission was stopped

    @property
    def num_unfinished(self) -> int:
        """Requests in the scheduler."""
        return len(self._unfinished_ids)

    @property
    def num_running(self) -> int:
        """Requests that were started and are not complete."""
        return len(self._unfinished_ids) - self._num_unstarted

    @property
    def num_waiting(self) -> int:
        """Requests that were never started and not given back."""
        return self._num_unstarted + len(self._stopped_ids)

    def submit(self, requests: Iterable[Request]) -> list[RequestFailure]:
        """Queue requests; returns a failure for each that can never run."""
        assert self.is_open
        failures: list[RequestFailure] = []
        for request in requests:
            failure = self._failure_of(request)
            if failure is not None:
                failures.append(failure)
                self._scheduler.cancel_planned(request)
                continue
            self._scheduler.add(self._scheduler.sequence_of(request))
            self._unfinished_ids.add(request.request_id)
            self._num_unstarted += 1
        return failures

    def cancel(self, requests: Collection[Request]) -> list[int]:
        """Drop queued requests and return their ids; unpin prefixes for those never submitted.

        Started requests continue.
        """
        ids = {request.request_id for request in requests}
        known = ids.intersection(self._unfinished_ids)
        known.update(each for each in self._stopped_ids if each in ids)
        for request in requests:
            if request.request_id not in known:
                self._scheduler.cancel_planned(request)
        if not known:  # as for most: the queue is not searched
            return []
        dropped = self._drop_unstarted(lambda seq: seq.state.request.request_id in known)
        dropped += [each for each in self._stopped_ids if each in known]
        self._stopped_ids = [each for each in self._stopped_ids if each not in known]
        return dropped

    def stop_admitting(self) -> None:
        """Start no further request. Queued ones wait for `give_back`."""
        self.is_open = False
        self._stopped_ids += self._drop_unstarted(lambda seq: True)
        self._scheduler.unpin_all()

    def give_back(self) -> list[int]:
        """Drop the requests that were never started and return their ids."""
        dropped = self._stopped_ids + self._drop_unstarted(lambda seq: True)
        self._stopped_ids = []
        return dropped

    def count_started(self, num_requests: int) -> None:
        self._num_unstarted -= num_requests

    def count_complete(self, request_id: int) -> None:
        self._unfinished_ids.discard(request_id)

    def count_dropped(self, seqs: Collection[Sequence]) -> list[int]:
        """Count requests that were dropped before they started; returns their ids."""
        ids = [seq.state.request.request_id for seq in seqs]
        self._num_unstarted -= len(ids)
        self._unfinished_ids.difference_update(ids)
        return ids

    def _drop_unstarted(self, is_dropped: Callable[[Sequence], bool]) -> list[int]:
        return self.count_dropped(self._scheduler.drop_unstarted(is_dropped))

    def _failure_of(self, request: Request) -> RequestFailure | None:
        if message := self._why_invalid(request):
            return RequestFailure(request.request_id, FailureCode.INVALID_INPUT, message)
        if message := why_unfit(request, self._limits):
            return RequestFailure(request.request_id, FailureCode.PROMPT_TOO_LONG, message)
        return None
