"""Estimates the output length of a request, for which admission reserves blocks.

An estimate that is too low costs preemptions; one that is too high leaves the pool emptier. The
estimate is the job's 90th percentile: longer outputs use the headroom that admission leaves free
(tests/bench/LOG.md compares other quantiles).
"""

from collections.abc import Mapping, Sequence

import numpy as np

from thothy_batch.records import Sampling

QUANTILE = 0.9
# Outputs of a job needed before their quantile replaces max_tokens.
MIN_OUTPUTS = 16
_KEPT = 2048  # the newest outputs of a job


class OutputEstimates:
    """Output lengths by job, learned from earlier runs and from this run's finished requests."""

    def __init__(self, history: Mapping[str, Sequence[int]] | None = None) -> None:
        """`history`: by job, output tokens per sample of its last artifacts, newest last."""
        self._outputs = {job: list(tokens)[-_KEPT:] for job, tokens in (history or {}).items()}
        self._estimates: dict[str, int] = {}
        self._means: dict[str, int] = {}
        self._num_seen: dict[str, int] = {}

    def expected(self, job: str, sampling: Sampling) -> int:
        """Return the output tokens to reserve for a sample; at most max_tokens."""
        if sampling.ignore_eos:
            return sampling.max_tokens
        estimate = self._estimates.get(job)
        if estimate is None:
            estimate = self._estimates[job] = self._quantile(job)
        return min(sampling.max_tokens, estimate or sampling.max_tokens)

    def typical(self, job: str, sampling: Sampling) -> int:
        """Return the mean output tokens of a sample; max_tokens without a history."""
        if sampling.ignore_eos or self.source(job, sampling) != "history":
            return sampling.max_tokens
        mean = self._means.get(job)
        if mean is None:
            mean = self._means[job] = max(1, round(float(np.mean(self._outputs[job]))))
        return min(sampling.max_tokens, mean)

    def source(self, job: str, sampling: Sampling) -> str:
        """Return the basis of the estimate: exact, history or max_tokens."""
        if sampling.ignore_eos:
            return "exact"
        return "history" if len(self._outputs.get(job, ())) >= MIN_OUTPUTS else "max_tokens"

    def observe(self, job: str, output_tokens: int) -> None:
        """Record the length of a finished sample."""
        outputs = self._outputs.setdefault(job, [])
        outputs.append(output_tokens)
        if len(outputs) > 2 * _KEPT:
            del outputs[:_KEPT]
        seen = self._num_seen[job] = self._num_seen.get(job, 0) + 1
        # Not at every sample: the quantile changes slowly.
        if seen % MIN_OUTPUTS == 0:
            self._estimates.pop(job, None)
            self._means.pop(job, None)

    def _quantile(self, job: str) -> int:
        """Return the quantile of a job's outputs; 0 if too few are known."""
        outputs = self._outputs.get(job, ())
        if len(outputs) < MIN_OUTPUTS:
            return 0
        return int(np.percentile(outputs, 100 * QUANTILE, method="higher"))
