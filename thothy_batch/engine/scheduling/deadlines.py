"""Who is still worth being started when the night comes to its end.

A row that is started and cannot be finished is work for nothing. How long one takes is known from
those that run: the seconds of a token, and of a token of a prompt, in the latest steps.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from thothy_batch.engine.core.sequence import Sequence
from thothy_batch.engine.cost.cost_model import CostModel, StepWork
from thothy_batch.engine.scheduling.scheduled_batch import ScheduledBatch, StepStats

_MEMORY_S = 10.0  # of busy time, in which what was measured loses 63 % of its weight
_MOST_S = 2.5  # that one step counts for: one that was held up says little of the next
_LOOK_AGAIN_S = 1.0
_UNTRIED_FACTOR = (
    0.5  # of what a step takes by the cost model: who is left for that was never tried
)
_PROMPT_ROWS = 1024  # of a step of prompts, in the cost model's words


@dataclass(slots=True)
class _Rate:
    """Seconds a token; old measurements count less and less."""

    expected: float  # before anything is measured; 0: nothing is known
    seconds: float = 0.0
    tokens: float = 0.0

    def note(self, seconds: float, tokens: float, keep: float) -> None:
        self.seconds = self.seconds * keep + seconds
        self.tokens = self.tokens * keep + tokens

    @property
    def now(self) -> float:
        return self.seconds / self.tokens if self.tokens else self.expected


class DeadlineGate:
    """Judges by `Request.ends_at`. `clock` is the one that it is of.

    `cost`: what is known of the device's speed beforehand. Without it, and before the first steps,
    everybody may start.
    """

    def __init__(self, clock: Callable[[], float], cost: CostModel | None = None) -> None:
        self._clock = clock
        self._token = _Rate(0.0 if cost is None else _UNTRIED_FACTOR * _token_s(cost))
        self._prompt = _Rate(0.0 if cost is None else _UNTRIED_FACTOR * _prompt_token_s(cost))
        self._least_token_s = self._token.expected
        self._least_prompt_s = self._prompt.expected
        self._due_at = 0.0

    def learn(
        self, span: ScheduledBatch, outcome: StepStats, num_rows: int, seconds: float
    ) -> None:
        """A launch took so long. `num_rows`: that drew tokens in it, of which the outcome tells."""
        keep = math.exp(-min(seconds, _MOST_S) / _MEMORY_S)
        in_prompts = sum(part.num_tokens for part in span.parts)
        if in_prompts:
            share = in_prompts / (in_prompts + len(span.decoding))
            self._prompt.note(seconds * share, in_prompts, keep)
            least = self._least_prompt_s or self._prompt.now
            self._least_prompt_s = min(least, self._prompt.now)
        if outcome.output_tokens > 0:
            self._token.note(seconds * num_rows, outcome.output_tokens, keep)
            least = self._least_token_s or self._token.now
            self._least_token_s = min(least, self._token.now)

    def is_due(self) -> bool:
        """Whether to look again at those that may not start: about once a second."""
        now = self._clock()
        if now < self._due_at:
            return False
        self._due_at = now + _LOOK_AGAIN_S
        return True

    def is_over(self, seq: Sequence) -> bool:
        """Whether the time of a sequence that was not started has passed."""
        ends_at = seq.state.request.ends_at
        return ends_at is not None and self._clock() >= ends_at

    def can_finish_in_time(self, seq: Sequence, num_cached: int, *, alone: bool) -> bool:
        """Whether it can be expected to end in time; of its prompt `num_cached` tokens are there.
        `alone`: with nobody beside it a row is as fast as any was so far. Who was started before
        goes on."""
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
        num_prompt = max(0, seq.prompt_len - num_cached)
        return left_s > 0 and num_prompt * prompt_s + num_output * token_s <= left_s


def _token_s(cost: CostModel) -> float:
    """Of one row in a step of its own."""
    return cost.step_s(StepWork(1, 1, decode_context=0, num_decode=1, prefill_pairs=0))


def _prompt_token_s(cost: CostModel) -> float:
    step = StepWork(_PROMPT_ROWS, 0, decode_context=0, num_decode=0, prefill_pairs=0)
    return cost.step_s(step) / _PROMPT_ROWS
