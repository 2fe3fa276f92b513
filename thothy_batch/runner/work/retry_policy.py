"""Bad answers are tried again: with another seed, or with room for more tokens.

Rows that are drawn at random may do better by another seed. Greedy ones would say the same again,
unless they were cut off, or their kind names a temperature for this. Of several answers the best
one counts, of equal ones the first.
"""

from dataclasses import dataclass, replace

from thothy_batch.kinds import ParsedOutput
from thothy_batch.plan import row_seed
from thothy_batch.records import Completion, FinishReason, Request, RequestResult

_MORE_ROOM = 2  # times max_tokens, after an answer that was cut off


@dataclass(frozen=True, slots=True)
class Attempt:
    """An answer, and what it was asked with."""

    request: Request
    attempt: int
    result: RequestResult
    finished: ParsedOutput

    @property
    def completions(self) -> tuple[Completion, ...]:
        return self.result.completions

    @property
    def is_cut_off(self) -> bool:
        reasons = {completion.finish_reason for completion in self.completions}
        return FinishReason.LENGTH in reasons

    @property
    def rank(self) -> tuple[bool, int]:
        """Lower is better."""
        return bool(self.finished.failure), len(self.finished.flags)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """What may be tried."""

    run_seed: int
    most: int  # attempts of a request in one run
    max_len: int  # tokens of prompt and output

    def next_request(
        self,
        tried: Attempt,
        sampling_seed: int | None,
        *,
        num_tried: int,
        retry_temperature: float | None = None,
    ) -> Request | None:
        """The request of the attempt after this one; None where no other answer is to be had.

        `retry_temperature`: at which a greedy row is drawn that was not cut off; None: it is not.
        """
        if not tried.finished.failure and not tried.finished.flags:
            return None
        if num_tried >= self.most:
            return None
        request, sampling = tried.request, tried.request.sampling
        longer = self._longer(request) if tried.is_cut_off and not sampling.ignore_eos else 0
        if longer:
            sampling = replace(sampling, max_tokens=longer)
        elif sampling.temperature == 0:
            if retry_temperature is None:
                return None
            sampling = replace(sampling, temperature=retry_temperature)
        key, attempt = request.request_key, tried.attempt + 1
        return replace(
            request,
            sampling=sampling,
            seed=row_seed(self.run_seed, sampling_seed, key, attempt=attempt),
            priority=0,  # behind all that was never tried
            prefixes=None,  # the plan counted its readers once
            expected_tokens=None,
        )

    def _longer(self, request: Request) -> int:
        """More tokens than before; 0: there is no room for them."""
        before = request.sampling.max_tokens
        most = min(_MORE_ROOM * before, self.max_len - len(request.prompt_token_ids))
        return most if most > before else 0
