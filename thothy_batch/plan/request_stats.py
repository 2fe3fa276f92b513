"""Statistics of a run's requests that are known before a token is computed."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from thothy_batch.plan.sharing_stats import BLOCK_SIZE, SharingStats, sharing_stats
from thothy_batch.records import Request


@dataclass(frozen=True, slots=True)
class LengthStats:
    """Distribution of lengths in tokens."""

    num: int
    total: int
    mean: float
    p50: int
    p95: int
    p99: int
    max: int
    histogram: tuple[tuple[int, int], ...]  # (inclusive upper bound, count)

    @classmethod
    def of(cls, lengths: Sequence[int]) -> "LengthStats":
        """Summarise lengths. Percentiles are lengths that occur; bounds are powers of two."""
        values = np.asarray(lengths, dtype=np.int64)
        if not len(values):
            return cls(0, 0, 0.0, 0, 0, 0, 0, ())
        p50, p95, p99 = np.percentile(values, [50, 95, 99], method="higher")
        exponents = np.ceil(np.log2(np.maximum(values, 1))).astype(np.int64)
        buckets, counts = np.unique(exponents, return_counts=True)
        histogram = tuple((2 ** int(b), int(c)) for b, c in zip(buckets, counts, strict=True))
        total, longest = int(values.sum()), int(values.max())
        mean = round(total / len(values), 1)
        return cls(len(values), total, mean, int(p50), int(p95), int(p99), longest, histogram)

    def as_json(self) -> dict[str, object]:
        """Return plain values; the histogram is a list of [upper bound, count]."""
        return {**asdict(self), "histogram": [list(pair) for pair in self.histogram]}


@dataclass(frozen=True, slots=True)
class RequestStats:
    """Sums over the requests of a run. Outputs count max_tokens, their upper bound."""

    num_requests: int
    num_sequences: int  # samples counted
    prompt: LengthStats
    output: LengthStats  # max_tokens per sequence
    sharing: SharingStats
    needed_tokens: int  # prompt + max_tokens of all samples, prompts once
    longest_tokens: int  # the longest single prompt + max_tokens

    def as_json(self) -> dict[str, object]:
        """Return nested plain values."""
        return {
            **asdict(self),
            "prompt": self.prompt.as_json(),
            "output": self.output.as_json(),
            "sharing": self.sharing.as_json(),
        }


def request_stats(
    requests: Sequence[Request],
    *,
    block_size: int = BLOCK_SIZE,
    sharing: SharingStats | None = None,
) -> RequestStats:
    """Sum up the requests. `sharing`: their sharing, if already known."""
    prompt_lens = [len(request.prompt_token_ids) for request in requests]
    budgets = [request.sampling.max_tokens for request in requests]
    samples = [request.num_samples for request in requests]
    outputs = np.repeat(np.asarray(budgets, dtype=np.int64), np.asarray(samples, dtype=np.int64))
    prompts = [request.prompt_token_ids for request in requests]
    longest = (p + b for p, b in zip(prompt_lens, budgets, strict=True))
    return RequestStats(
        num_requests=len(requests),
        num_sequences=sum(samples),
        prompt=LengthStats.of(prompt_lens),
        output=LengthStats.of(outputs.tolist()),
        sharing=sharing or sharing_stats(prompts, block_size=block_size),
        needed_tokens=sum(prompt_lens) + int(outputs.sum()),
        longest_tokens=max(longest, default=0),
    )
