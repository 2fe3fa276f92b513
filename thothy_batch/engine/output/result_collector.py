"""Result collector: results, failures and expired requests until the next update."""

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

    def __len__(self) -> int:
        return len(self._results) + len(self._failures) + len(self._expired)

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

    def expire(self, seqs: Iterable[Sequence]) -> None:
        """Add requests that were not started and cannot finish before their deadline."""
        self._expired += [seq.state.request.request_id for seq in seqs]

    def pop_into(self, update: EngineUpdate) -> None:
        """Move everything collected since the last call into an update."""
        update.results, update.failures = self._results, self._failures
        update.expired = self._expired
        self._results, self._failures, self._expired = [], [], []
