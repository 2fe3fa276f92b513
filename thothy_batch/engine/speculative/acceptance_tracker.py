"""Acceptance tracker: how often drafted tokens turn out right, per sequence and per n-gram length.

A draft is judged whether it was verified or only proposed. So the rates are learned at no cost,
also while drafts do not pay, unless not even good ones would.
"""

from dataclasses import dataclass, field

from thothy_batch.engine.speculative.prompt_lookup import MAX_NGRAM

_START = 0.5  # rate before anything is known
_START_TRIALS = 8.0  # tokens that _START counts as
_KEEP_ALL = 0.99  # decay per draft of the counts of all sequences
_KEEP_ONE = 0.9  # decay per draft of the counts of one sequence
_PRIOR_TRIALS = 4.0  # tokens of a sequence that the rate of all others counts as


@dataclass(slots=True)
class Counts:
    """Drafted tokens and those that were right; old ones lose weight."""

    trials: float = 0.0
    hits: float = 0.0

    def add(self, num_hits: int, *, missed: bool, keep: float) -> None:
        self.trials = self.trials * keep + num_hits + missed
        self.hits = self.hits * keep + num_hits

    def rate(self, prior: float, prior_trials: float) -> float:
        return (self.hits + prior * prior_trials) / (self.trials + prior_trials)


@dataclass(slots=True)
class AcceptanceTracker:
    """Counts of all sequences, by length of the n-gram that was found again."""

    by_ngram: list[Counts] = field(
        default_factory=lambda: [
            Counts(_START_TRIALS, _START * _START_TRIALS) for _ in range(MAX_NGRAM + 1)
        ]
    )

    def rate(self, ngram: int, own: Counts) -> float:
        """Return the chance that a sequence's next drafted token is right, given its own counts."""
        return own.rate(self.by_ngram[ngram].rate(_START, 1.0), _PRIOR_TRIALS)

    @property
    def best_rate(self) -> float:
        """The highest rate of any n-gram length."""
        return max(counts.rate(_START, 1.0) for counts in self.by_ngram)

    def judge(self, ngram: int, own: Counts, num_hits: int, *, missed: bool) -> None:
        """Count a draft: `num_hits` tokens were right; `missed`: the next one was wrong."""
        self.by_ngram[ngram].add(num_hits, missed=missed, keep=_KEEP_ALL)
        own.add(num_hits, missed=missed, keep=_KEEP_ONE)
