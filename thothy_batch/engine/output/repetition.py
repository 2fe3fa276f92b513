"""Repetition check: detects a completion that loops. A function of its token ids alone."""

from array import array

CHECK_EVERY = 16  # output tokens
MAX_PERIOD = 64
MIN_COPIES = 4
MIN_TOKENS = 64


def repeats_itself(output_ids: "array[int]") -> bool:
    """Return whether the output ends in MIN_COPIES copies of a cycle of at most MAX_PERIOD tokens.

    The copies must also span MIN_TOKENS tokens, so that "no, no, no, no" is not yet a loop.
    """
    tail = output_ids[-MAX_PERIOD * MIN_COPIES :]
    size = len(tail)
    if size < MIN_TOKENS:
        return False
    last = tail[-1]
    for period in range(1, min(MAX_PERIOD, size // MIN_COPIES) + 1):
        if tail[-1 - period] != last:
            continue
        first = size - max(MIN_TOKENS, MIN_COPIES * period)
        if tail[first : size - period] == tail[first + period :]:
            return True
    return False


def is_due(num_output: int) -> bool:
    """Return whether to check at this length.

    The lengths are fixed, so that the place where a loop is cut depends on the tokens alone.
    """
    return num_output >= MIN_TOKENS and num_output % CHECK_EVERY == 0
