"""Guesses what a sequence says next: what followed when it last said the same (prompt lookup).

A draft costs nothing to make, and is right where an output copies: quotes, names, tables, loops.
Saxena 2023, https://github.com/apoorvumang/prompt-lookup-decoding.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

MAX_NGRAM = 4  # longer ones are found through their last four tokens
_TOKEN_BITS = 32


class Draft(NamedTuple):
    """Tokens that may follow, and how many of the last tokens were found again for it."""

    ngram: int  # 1 .. MAX_NGRAM; 0: nothing was found
    tokens: list[int]


class PromptLookup:
    """The n-grams of one sequence, each with the place behind its latest occurrence.

    A token costs the same at any length: an n-gram's key is made from that of the one before.
    """

    def __init__(self, tokens: Iterable[int]) -> None:
        self._tokens: list[int] = []
        # By n - 1: n-gram → position of the token that followed it last.
        self._places: tuple[dict[int, int], ...] = tuple({} for _ in range(MAX_NGRAM))
        self._keys: list[int] = []  # by n - 1: the n-gram at the end
        self.extend(tokens)

    def __len__(self) -> int:
        return len(self._tokens)

    def extend(self, tokens: Iterable[int]) -> None:
        """The sequence goes on. The n-gram at its end has no follower yet: it finds earlier ones,
        never itself."""
        for token in tokens:
            at = len(self._tokens)
            for places, key in zip(self._places, self._keys, strict=False):
                places[key] = at
            # The n-gram that ends here is the (n - 1)-gram before, and the token.
            shorter = (0, *self._keys[: MAX_NGRAM - 1])
            self._keys = [(key << _TOKEN_BITS) | token for key in shorter]
            self._tokens.append(token)

    def propose(self, num_tokens: int) -> Draft:
        """So many tokens as followed the longest n-gram at the end where it last occurred. Where
        that runs into the end itself, it goes on in circles."""
        for n in range(len(self._keys), 0, -1):
            at = self._places[n - 1].get(self._keys[n - 1])
            if at is not None:
                cycle = self._tokens[at : at + num_tokens]
                return Draft(n, (cycle * -(-num_tokens // len(cycle)))[:num_tokens])
        return Draft(0, [])


def num_accepted(draft: Sequence[int], drawn: Sequence[int]) -> int:
    """How many tokens of a draft are those that were drawn, up to the first that is not."""
    num = 0
    while num < min(len(draft), len(drawn)) and draft[num] == drawn[num]:
        num += 1
    return num
