"""Seconds of decode steps by their number of tokens, learned from those that the engine runs.

No measurement beforehand is needed, and the times are current: contexts grow, and other programs
use the machine's cores. Noise only ever adds time, so the lower median of the latest counts.
"""

from collections import deque
from dataclasses import dataclass, field
from math import log2

import numpy as np
import numpy.typing as npt

_KEPT = 5  # measurements of a size
_ENOUGH = 2  # of them, for a size to be compared with
_EXPIRES = 512  # steps after which a size that did not occur again is forgotten


@dataclass(slots=True)
class _Size:
    """Steps of about the same number of tokens. Seconds."""

    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=_KEPT))
    num_tokens: int = 0  # of the latest
    at_step: int = 0


class StepTimes:
    """Seconds of a step as a function of its tokens."""

    def __init__(self) -> None:
        self.num_steps = 0
        self._sizes: dict[int, _Size] = {}

    def note(self, num_tokens: int, seconds: float) -> None:
        """Record the time of a decode step."""
        self.num_steps += 1
        size = self._sizes.setdefault(size_of(num_tokens), _Size())
        size.seconds.append(seconds)
        size.num_tokens, size.at_step = num_tokens, self.num_steps
        oldest = self.num_steps - _EXPIRES
        self._sizes = {key: size for key, size in self._sizes.items() if size.at_step > oldest}

    def least_seconds(self, num_tokens: int) -> float:
        """Seconds of a step, as measured; or else a lower bound from steps of other sizes. A step
        takes at least as long as any smaller one, and at least its share of a larger one's time.
        0: nothing is known."""
        size = self._sizes.get(size_of(num_tokens))
        if size is not None and len(size.seconds) >= _ENOUGH:
            return _lower_median(size)
        return max(
            (
                _lower_median(size) * min(1.0, num_tokens / size.num_tokens)
                for size in self._sizes.values()
                if len(size.seconds) >= _ENOUGH
            ),
            default=0.0,
        )

    @property
    def most_tokens(self) -> int:
        """Tokens of the largest known step; 0: none is known."""
        return max((size.num_tokens for size in self._sizes.values()), default=0)

    def seconds(self, first: int, last: int) -> npt.NDArray[np.float64]:
        """Seconds of steps of first .. last tokens, both included. Never falls; linear between
        known sizes; proportional beyond the largest, which is the worst case.
        """
        known = sorted((size.num_tokens, _lower_median(size)) for size in self._sizes.values())
        tokens = np.arange(first, last + 1, dtype=np.float64)
        xs = np.array([num_tokens for num_tokens, _ in known], np.float64)
        ys = np.array([seconds for _, seconds in known])
        # A smaller step that took longer than a larger one was disturbed.
        ys = np.minimum.accumulate(ys[::-1])[::-1]
        beyond = np.maximum(1.0, tokens / xs[-1])
        return np.asarray(np.interp(tokens, xs, ys) * beyond, np.float64)


def size_of(num_tokens: int) -> int:
    """Steps of the same size take about as long: exact up to 8 tokens, then within a fifth."""
    return round(4 * log2(num_tokens))


def _lower_median(size: _Size) -> float:
    return sorted(size.seconds)[(len(size.seconds) - 1) // 2]
