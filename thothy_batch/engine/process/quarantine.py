"""Requests that are blamed for an engine's death, until another request is finished."""

from dataclasses import replace

from thothy_batch.records import RequestFailure

_MAX_BLAMED = 3  # in a row, with no result in between: then it is not the requests


class Quarantine:
    """Withholds failures: as long as there is no other result, the machine may be to blame."""

    def __init__(self) -> None:
        self._failures: list[RequestFailure] = []

    @property
    def is_full(self) -> bool:
        """True where one more would mean that the requests are not to blame."""
        return len(self._failures) >= _MAX_BLAMED - 1

    def add(self, failure: RequestFailure) -> None:
        self._failures.append(failure)

    def release(self) -> list[RequestFailure]:
        """Another request was finished: the failures are certain."""
        failures, self._failures = self._failures, []
        return failures

    def release_uncertain(self) -> list[RequestFailure]:
        """No request is left that could be finished: the machine may be to blame."""
        return [replace(failure, is_certain=False) for failure in self.release()]

    def clear(self) -> list[int]:
        """Drop the failures, as no result will confirm them; returns their ids."""
        return [failure.request_id for failure in self.release()]
