"""Deadline gate: rejects requests that would miss their deadline before any work is spent on them.

The time a request takes is predicted from recent steps: the seconds per decoded token and per
prompt token.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from thothy_batch.engine.core.sequence import Sequence
from thothy_batch.engine.cost.cost_model import CostModel, StepWork
from thothy_batch.engine.scheduling.scheduled_batch import ScheduledBatch, StepStats

_MEMORY_S = 10.0  # seconds of busy time after which a measurement has lost 63 % of its weight
_MAX_DECAY_S = 2.5  # cap per step: one delayed step says little about the next
_RECHECK_S = 1.0
# Predicted step time is multiplied by it: a request rejected before the first step is never tried.
_UNTRIED_FACTOR = 0.5
_PREFILL_TOKENS = 1024  # of the step from which the cost model predicts a prompt token


@dataclass(slots=True)
class _Rate:
    """Seconds per token; old measurements lose weight."""

    expected: float  # before anything is measured; 0: unknown
    seconds: float = 0.0
    tokens: float = 0.0

    def note(self, seconds: float, tokens: float, keep: float) -> None:
        self.seconds = self.seconds * keep + seconds
        self.tokens = self.tokens * keep + tokens

    @property
    def now(self) -> float:
        return self.seconds / self.tokens if self.tokens else self.expected


class DeadlineGate:
    """Compares predicted times with `Request.ends_at`, a time of `clock`.

    `cost`: predicted speed of the device. Without it every request passes before the first steps.
    """

    def __init__(self, clock: Callable[[], float], cost: CostModel | None = None) -> None:
        self._clock = clock
        self._token = _Rate(0.0 if cost is None else _UNTRIED_FACTOR * _token_s(cost))
        self._prompt = _Rate(0.0 if cost is None else _UNTRIED_FACTOR * _prompt_token_s(cost))
        self._least_token_s = self._token.expected
        self._least_prompt_s = self._prompt.expected
        self._recheck_at = 0.0

    def learn(self, batch: ScheduledBatch, stats: StepStats, num_seqs: int, seconds: float) -> None:
        """Learn from a launch of `seconds`, in which `num_seqs` sequences drew tokens."""
        keep = math.exp(-min(seconds, _MAX_DECAY_S) / _MEMORY_S)
        num_prefilled = sum(chunk.num_tokens for chunk in batch.chunks)
        if num_prefilled:
            share = num_prefilled / (num_prefilled + len(batch.decoding))
            self._prompt.note(seconds * share, num_prefilled, keep)
            least = self._least_prompt_s or self._prompt.now
            self._least_prompt_s = min(least, self._prompt.now)
        if stats.output_tokens > 0:
            self._token.note(seconds * num_seqs, stats.output_tokens, keep)
            least = self._least_token_s or self._token.now
            self._least_token_s = min(least, self._token.now)

    def is_recheck_due(self) -> bool:
        """Return whether to check deferred sequences again: about once a second."""
        now = self._clock()
        if now < self._recheck_at:
            return False
        self._recheck_at = now + _RECHECK_S
        return True

    def is_expired(self, seq: Sequence) -> bool:
        """Return whether the deadline of a sequence has passed."""
        ends_at = seq.state.request.ends_at
        return ends_at is not None and self._clock() >= ends_at

    def can_finish_in_time(self, seq: Sequence, num_cached: int, *, alone: bool) -> bool:
        """Return whether a sequence is expected to end in time; True if it was started before.

        `num_cached`: prompt tokens that need not be computed. `alone`: no other sequence runs, so
        it is expected to be as fast as the fastest so far.
        """
        request = seq.state.request
        if request.ends_at is None or seq.state.started_at is not None:
            return True
        left_s = request.ends_at - self._clock()
        num_output = request.sampling.max_tokens
        if request.expected_tokens is not None and not request.sampling.ignore_eos:
            num_output = min(num_output, request.expected_tokens)
        num_output += request.later_tokens
        token_s = self._least_token_s if alone else self._token.now
        prompt_s = self._least_prompt_s if alone else self._prompt.now
        num_prompt = max(0, seq.prompt_len - num_cached) + request.later_prompt_tokens
        return left_s > 0 and num_prompt * prompt_s + num_output * token_s <= left_s


def _token_s(cost: CostModel) -> float:
    """Predict the seconds per token of a sequence that decodes alone."""
    return cost.step_s(StepWork(1, 1, decode_context=0, num_decode=1, prefill_pairs=0))


def _prompt_token_s(cost: CostModel) -> float:
    step = StepWork(_PREFILL_TOKENS, 0, decode_context=0, num_decode=0, prefill_pairs=0)
    return cost.step_s(step) / _PREFILL_TOKENS
