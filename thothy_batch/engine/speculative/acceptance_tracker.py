"""How often a guessed token turns out right: of one sequence, and of all by what was found again.

A guess is judged whether it was computed as a draft or only made: so this is learned at no cost,
also while drafts are not worth their time, unless not even good ones would be.
"""

from dataclasses import dataclass, field

from thothy_batch.engine.speculative.prompt_lookup import MAX_NGRAM

_START = 0.5  # before anything is known
_START_TRIALS = 8.0  # tokens that this counts as
_KEEP_ALL = 0.99  # of counts of all sequences, from one guess to the next
_KEEP_ONE = 0.9  # of counts of one sequence
_PRIOR_TRIALS = 4.0  # tokens of a sequence that all others count as


@dataclass(slots=True)
class Counts:
    """Tokens that were guessed and those that were right; old ones count less and less."""

    trials: float = 0.0
    hits: float = 0.0

    def add(self, num_hits: int, *, missed: bool, keep: float) -> None:
        self.trials = self.trials * keep + num_hits + missed
        self.hits = self.hits * keep + num_hits

    def rate(self, prior: float, prior_trials: float) -> float:
        return (self.hits + prior * prior_trials) / (self.trials + prior_trials)


@dataclass(slots=True)
class AcceptanceTracker:
    """Of all sequences, by length of the n-gram that was found again."""

    by_ngram: list[Counts] = field(
        default_factory=lambda: [
            Counts(_START_TRIALS, _START * _START_TRIALS) for _ in range(MAX_NGRAM + 1)
        ]
    )

    def rate(self, ngram: int, own: Counts) -> float:
        """The chance that a next guessed token is right, of a sequence with these counts."""
        return own.rate(self.by_ngram[ngram].rate(_START, 1.0), _PRIOR_TRIALS)

    @property
    def best_rate(self) -> float:
        """Of guesses by whatever was found again."""
        return max(counts.rate(_START, 1.0) for counts in self.by_ngram)

    def judge(self, ngram: int, own: Counts, num_hits: int, *, missed: bool) -> None:
        """So many tokens of a guess were right, and whether the one behind them was wrong."""
        self.by_ngram[ngram].add(num_hits, missed=missed, keep=_KEEP_ALL)
        own.add(num_hits, missed=missed, keep=_KEEP_ONE)
