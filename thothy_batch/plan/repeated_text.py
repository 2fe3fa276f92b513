"""Estimates text that prompts repeat after their beginning, which no prefix cache can share.

The common case is an instruction in front of a document: no two prompts share a prefix any more.
Token windows are compared at every position. A content-defined sample of the windows is kept
(hashes that end in zeros), so equal text is sampled at equal places.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from thothy_batch.records import TokenIds

U64 = npt.NDArray[np.uint64]

_WINDOW = 24  # tokens; longer than natural language repeats by itself
_SAMPLED = 16  # one window in 16
_MAX_TOKENS = 4_000_000  # tokens examined; the figures are scaled up beyond that
_FACTOR = 0x9E3779B97F4A7C15  # odd: it has an inverse modulo 2^64
_INVERSE = pow(_FACTOR, -1, 1 << 64)


@dataclass(frozen=True, slots=True)
class RepeatedText:
    """Prompt tokens computed although another prompt holds the same text elsewhere."""

    tokens: int  # estimated
    by_owner: dict[str, int]  # the same, by owner


def repeated_text(
    prompts: Sequence[TokenIds], shared_lens: Sequence[int], owners: Sequence[str]
) -> RepeatedText:
    """Estimate repeated text.

    `shared_lens`: tokens at the beginning of each prompt that are shared already and so left out.
    `owners`: a name per prompt, such as its job.
    """
    hashes: list[U64] = []
    names: list[npt.NDArray[np.int64]] = []
    known = sorted(set(owners))
    number = {name: index for index, name in enumerate(known)}
    total = seen = 0
    for prompt, shared, owner in zip(prompts, shared_lens, owners, strict=True):
        total += len(prompt)
        if seen >= _MAX_TOKENS:
            continue
        seen += len(prompt)
        found = _windows(prompt[shared:])
        hashes.append(found)
        names.append(np.full(len(found), number[owner]))
    if not hashes:
        return RepeatedText(0, {})
    _, inverse, counts = np.unique(np.concatenate(hashes), return_inverse=True, return_counts=True)
    # Each window stands for the tokens up to the next sampled one. One reader must compute it, so
    # each reader is charged an equal share of what the others could save.
    saved = _SAMPLED * (1 - 1 / counts[inverse]) * (total / max(seen, 1))
    parts = np.bincount(np.concatenate(names), saved, minlength=len(known))
    return RepeatedText(
        round(float(parts.sum())),
        {name: round(float(part)) for name, part in zip(known, parts, strict=True) if part >= 1},
    )


def _windows(tokens: TokenIds) -> U64:
    """Return the sampled windows' hashes, each once: repetition within a prompt does not count."""
    ids = np.asarray(tokens, dtype=np.int64).astype(np.uint64)
    if len(ids) < _WINDOW:
        return np.empty(0, np.uint64)
    powers, inverses = _powers(_FACTOR, len(ids)), _powers(_INVERSE, len(ids))
    with np.errstate(over="ignore"):
        sums = np.concatenate(([np.uint64(0)], np.cumsum((ids + np.uint64(1)) * powers)))
        hashes = (sums[_WINDOW:] - sums[:-_WINDOW]) * inverses[: len(ids) - _WINDOW + 1]
        hashes ^= hashes >> np.uint64(31)
        hashes *= np.uint64(0xD6E8FEB86659FD93)
    chosen = (hashes >> np.uint64(40)) % np.uint64(_SAMPLED) == 0
    return np.unique(hashes[chosen])


def _powers(factor: int, num: int) -> U64:
    with np.errstate(over="ignore"):
        powers = np.cumprod(np.full(num, factor, dtype=np.uint64), dtype=np.uint64)
    return np.concatenate(([np.uint64(1)], powers[:-1]))
