"""Prompt lookup: drafts the tokens that followed the same n-gram earlier in the sequence.

A draft costs nothing to make, and is right where an output copies: quotes, names, tables, loops.
Saxena 2023, https://github.com/apoorvumang/prompt-lookup-decoding.
"""

from collections import abc
from collections.abc import Iterable
from typing import NamedTuple

MAX_NGRAM = 4  # longer ones are found through their last four tokens
_TOKEN_BITS = 32


class Draft(NamedTuple):
    """Proposed tokens, and the length of the n-gram they followed."""

    ngram: int  # 1 .. MAX_NGRAM; 0: nothing was found
    tokens: list[int]


class PromptLookup:
    """The n-grams of one sequence, each with the position after its latest occurrence.

    A token costs the same at any length: an n-gram's key is made from the key before.
    """

    def __init__(self, tokens: Iterable[int]) -> None:
        self._tokens: list[int] = []
        # By n - 1: n-gram → position of the token that followed it last.
        self._positions: tuple[dict[int, int], ...] = tuple({} for _ in range(MAX_NGRAM))
        self._keys: list[int] = []  # by n - 1: the n-gram at the end
        self.extend(tokens)

    def __len__(self) -> int:
        return len(self._tokens)

    def extend(self, tokens: Iterable[int]) -> None:
        """Append tokens. The n-gram at the end has no follower yet, so it never finds itself."""
        for token in tokens:
            at = len(self._tokens)
            for positions, key in zip(self._positions, self._keys, strict=False):
                positions[key] = at
            # The n-gram that ends here is the (n - 1)-gram before, and the token.
            shorter = (0, *self._keys[: MAX_NGRAM - 1])
            self._keys = [(key << _TOKEN_BITS) | token for key in shorter]
            self._tokens.append(token)

    def propose(self, num_tokens: int) -> Draft:
        """Draft the tokens that followed the latest occurrence of the longest n-gram at the end.

        If fewer than `num_tokens` followed it, they are repeated as a cycle.
        """
        for n in range(len(self._keys), 0, -1):
            at = self._positions[n - 1].get(self._keys[n - 1])
            if at is not None:
                cycle = self._tokens[at : at + num_tokens]
                return Draft(n, (cycle * -(-num_tokens // len(cycle)))[:num_tokens])
        return Draft(0, [])


def num_accepted(draft: abc.Sequence[int], drawn: abc.Sequence[int]) -> int:
    """Count the leading tokens of a draft that equal the drawn ones."""
    num = 0
    while num < min(len(draft), len(drawn)) and draft[num] == drawn[num]:
        num += 1
    return num
