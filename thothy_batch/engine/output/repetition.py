"""Repetition check: detects a completion that loops. A function of its token ids alone.

A loop is a cycle of tokens said several times in a row: a refrain comes again after a verse, and
rows of a table or lines of code differ, so neither is one.
"""

from array import array

CHECK_EVERY = 16  # output tokens
MAX_PERIOD = 512
SHORT_PERIOD = 64
MIN_COPIES = 4  # in a row, of a cycle of at most SHORT_PERIOD tokens
MIN_LONG_COPIES = 3  # of a longer one
MIN_TOKENS = 64  # that the copies span, so that "no, no, no, no" is not yet a loop
# The last tokens are searched among those before them. In a loop they recur a period earlier: the
# copies after the first one span at least MIN_TOKENS / 2 tokens.
_SEED = 8


def tokens_needed(period: int, *, is_full: bool = False) -> int:
    """Return the tokens of a loop that must be seen.

    One copy less suffices at max_tokens (`is_full`), where the alternative is to try again with
    room for more of the loop.
    """
    copies = (MIN_COPIES if period <= SHORT_PERIOD else MIN_LONG_COPIES) - is_full
    return max(MIN_TOKENS, copies * period)


def repeats_itself(output_ids: "array[int]", *, is_full: bool = False) -> bool:
    """Return whether the output ends in a loop with a cycle of at most MAX_PERIOD tokens."""
    tail = output_ids[-tokens_needed(MAX_PERIOD) :]
    if len(tail) < MIN_TOKENS:
        return False
    data, width = tail.tobytes(), tail.itemsize
    seed = data[-_SEED * width :]
    first = max(0, len(data) - (MAX_PERIOD + _SEED) * width)
    end = len(data) - 1  # of the place where the seed is searched: before its own
    while (at := data.rfind(seed, first, end)) >= 0:
        period, rest = divmod(len(data) - len(seed) - at, width)
        num_bytes = tokens_needed(period, is_full=is_full) * width
        if not rest and num_bytes <= len(data):  # a rest: a place within a token
            copies, cycle = data[len(data) - num_bytes :], period * width
            if copies[:-cycle] == copies[cycle:]:
                return True
        end = at + len(seed) - 1
    return False


def is_due(num_output: int) -> bool:
    """Return whether to check at this length.

    The lengths are fixed, so that the place where a loop is cut depends on the tokens alone.
    """
    return num_output >= MIN_TOKENS and num_output % CHECK_EVERY == 0
