"""How many tokens an output will have: what admission makes room for.

Too low costs preemptions, too high an emptier pool. Nine of ten outputs of a job are no longer
than its 90th percentile, and those that are take from the blocks that admission leaves free for
them; see tests/bench/LOG.md for what other quantiles came to.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from thothy_batch.records import Sampling

QUANTILE = 0.9
# Outputs of a job before they say more than its max_tokens.
MIN_OUTPUTS = 16
_KEPT = 2048  # the newest outputs of a job


class OutputEstimates:
    """Per job, from earlier nights and from what has finished in this one."""

    def __init__(self, history: Mapping[str, Sequence[int]] | None = None) -> None:
        """`history`: output tokens per sample of each job's last artifacts, newest last."""
        self._outputs = {job: list(tokens)[-_KEPT:] for job, tokens in (history or {}).items()}
        self._estimates: dict[str, int] = {}
        self._means: dict[str, int] = {}
        self._num_seen: dict[str, int] = {}

    def expected(self, job: str, sampling: Sampling) -> int:
        """Output tokens of a sample; never more than max_tokens."""
        if sampling.ignore_eos:
            return sampling.max_tokens
        estimate = self._estimates.get(job)
        if estimate is None:
            estimate = self._estimates[job] = self._quantile(job)
        return min(sampling.max_tokens, estimate or sampling.max_tokens)

    def typical(self, job: str, sampling: Sampling) -> int:
        """Output tokens of a sample on average; max_tokens where nothing else is known."""
        if sampling.ignore_eos or self.source(job, sampling) != "history":
            return sampling.max_tokens
        mean = self._means.get(job)
        if mean is None:
            mean = self._means[job] = max(1, round(float(np.mean(self._outputs[job]))))
        return min(sampling.max_tokens, mean)

    def source(self, job: str, sampling: Sampling) -> str:
        """What the estimate goes by: exact, history, max_tokens."""
        if sampling.ignore_eos:
            return "exact"
        return "history" if len(self._outputs.get(job, ())) >= MIN_OUTPUTS else "max_tokens"

    def observe(self, job: str, output_tokens: int) -> None:
        """A sample has finished."""
        outputs = self._outputs.setdefault(job, [])
        outputs.append(output_tokens)
        if len(outputs) > 2 * _KEPT:
            del outputs[:_KEPT]
        seen = self._num_seen[job] = self._num_seen.get(job, 0) + 1
        # Now and then: what is expected changes slowly.
        if seen % MIN_OUTPUTS == 0:
            self._estimates.pop(job, None)
            self._means.pop(job, None)

    def _quantile(self, job: str) -> int:
        """0 where too few outputs are known."""
        outputs = self._outputs.get(job, ())
        if len(outputs) < MIN_OUTPUTS:
            return 0
        return int(np.percentile(outputs, 100 * QUANTILE, method="higher"))
