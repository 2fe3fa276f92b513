"""Retries of rejected or flagged completions: with another seed, or with room for more tokens.

Sampled requests may do better with another seed. Greedy ones would repeat the same output, unless
they were cut off or their kind names a retry temperature. A completion that repeats itself gets no
more room to do so. The best attempt counts, of equal ones the first.
"""

from dataclasses import dataclass, replace

from thothy_batch.kinds import ParsedOutput
from thothy_batch.plan import row_seed
from thothy_batch.records import Completion, FinishReason, Request, RequestResult

_MORE_ROOM = 2  # times max_tokens, after a completion that was cut off


@dataclass(frozen=True, slots=True)
class Attempt:
    """A completed request, its result, and the output parsed from it."""

    request: Request
    number: int  # 1: the first attempt, earlier runs included
    result: RequestResult
    output: ParsedOutput
    reasoning: tuple[str, ...] = ()  # of each completion, "" where there is none

    @property
    def completions(self) -> tuple[Completion, ...]:
        return self.result.completions

    @property
    def needs_room(self) -> bool:
        """True if more tokens may complete it."""
        reasons = {completion.finish_reason for completion in self.completions}
        return FinishReason.LENGTH in reasons and "repetition" not in self.output.flags

    @property
    def rank(self) -> tuple[bool, int]:
        """Lower is better."""
        return bool(self.output.failure), len(self.output.flags)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Decides whether a request is attempted again, and how."""

    run_seed: int
    max_attempts: int  # of a request in one run
    max_len: int  # tokens of prompt and output

    def next_request(
        self,
        attempt: Attempt,
        sampling_seed: int | None,
        *,
        num_attempts: int,
        retry_temperature: float | None = None,
    ) -> Request | None:
        """The request of the next attempt; None where there is none to make.

        `retry_temperature`: of a greedy request that was not cut off; None: it is not repeated.
        """
        if not attempt.output.failure and not attempt.output.flags:
            return None
        if num_attempts >= self.max_attempts:
            return None
        request, sampling = attempt.request, attempt.request.sampling
        longer = self._longer(request) if attempt.needs_room and not sampling.ignore_eos else 0
        if longer:
            sampling = replace(sampling, max_tokens=longer)
        elif sampling.temperature == 0:
            if retry_temperature is None:
                return None
            sampling = replace(sampling, temperature=retry_temperature)
        key, number = request.request_key, attempt.number + 1
        return replace(
            request,
            sampling=sampling,
            seed=row_seed(self.run_seed, sampling_seed, key, attempt=number),
            priority=0,  # after every first attempt
            prefixes=None,  # the plan counted its prefixes' readers once
            expected_tokens=None,
        )

    def _longer(self, request: Request) -> int:
        """A larger max_tokens that fits the context; 0: none does."""
        before = request.sampling.max_tokens
        most = min(_MORE_ROOM * before, self.max_len - len(request.prompt_token_ids))
        return most if most > before else 0
