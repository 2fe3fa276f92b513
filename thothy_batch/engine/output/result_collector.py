"""Result collector: the outcomes of requests until the next update."""

from collections.abc import Iterable

from thothy_batch.engine.core.sequence import Sequence
from thothy_batch.engine.output.stop_checker import StopChecker
from thothy_batch.records import EngineUpdate, RequestFailure, RequestResult


class ResultCollector:
    """Turns finished sequences into completions, and requests with all completions into results."""

    def __init__(self, stop_checker: StopChecker) -> None:
        self._stop_checker = stop_checker
        self._results: list[RequestResult] = []
        self._failures: list[RequestFailure] = []
        self._expired: list[int] = []
        self._given_back: list[int] = []

    def __len__(self) -> int:
        num_unfinished = len(self._expired) + len(self._given_back)
        return len(self._results) + len(self._failures) + num_unfinished

    def complete(self, seq: Sequence, now: float) -> bool:
        """Add a sequence whose tokens are all known; return whether its request is complete."""
        state = seq.state
        state.finished_at = now
        state.output_tokens += len(seq.output_ids)
        num_drawn = min(seq.num_tokens, seq.max_len) - seq.prompt_len
        state.wasted_tokens += num_drawn - len(seq.output_ids)
        state.num_unfinished -= 1
        state.completions[seq.sample] = self._stop_checker.completion(seq)
        if state.num_unfinished:
            return False
        self._results.append(state.result())
        return True

    def fail(self, failures: Iterable[RequestFailure]) -> None:
        self._failures += failures

    def expire(self, request_ids: Iterable[int]) -> None:
        """Add requests that were not started and cannot finish before their deadline."""
        self._expired += request_ids

    def give_back(self, request_ids: Iterable[int]) -> None:
        """Add requests that were not started and will not be."""
        self._given_back += request_ids

    def pop_into(self, update: EngineUpdate) -> None:
        """Move everything collected since the last call into an update."""
        update.results, update.failures = self._results, self._failures
        update.expired, update.given_back = self._expired, self._given_back
        self._results, self._failures, self._expired, self._given_back = [], [], [], []
