"""Request intake: validates and queues requests, and counts them until they are complete."""

from collections.abc import Iterable
from functools import partial

from thothy_batch.engine.core.config import EngineConfig
from thothy_batch.engine.core.limits import Limits, why_invalid, why_unfit
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
        self.num_unstarted = 0  # requests
        self.num_unfinished = 0  # requests, unstarted ones included

    @property
    def num_running(self) -> int:
        """Requests that were started and are not complete."""
        return self.num_unfinished - self.num_unstarted

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
            self.num_unstarted += 1
            self.num_unfinished += 1
        return failures

    def close(self) -> None:
        """Drop the requests that were never started; no more can be submitted."""
        self.is_open = False
        self.count_dropped(len(self._scheduler.drop_unstarted(lambda seq: True)))
        self._scheduler.unpin_all()

    def count_started(self, num_requests: int) -> None:
        self.num_unstarted -= num_requests

    def count_complete(self) -> None:
        self.num_unfinished -= 1

    def count_dropped(self, num_requests: int) -> None:
        """Count requests that were dropped before they started."""
        self.num_unstarted -= num_requests
        self.num_unfinished -= num_requests

    def _failure_of(self, request: Request) -> RequestFailure | None:
        if message := self._why_invalid(request):
            return RequestFailure(request.request_id, FailureCode.INVALID_INPUT, message)
        if message := why_unfit(request, self._limits):
            return RequestFailure(request.request_id, FailureCode.PROMPT_TOO_LONG, message)
        return None
