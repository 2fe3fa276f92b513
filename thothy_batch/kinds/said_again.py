"""Finds passages that a text says again: whole lines and sentences, by their words.

A long passage counts from the second time on, a short one if its copies are most of the text. So
the refrain of a song, labels and short list items may come again; table rows and code in fences
are not looked at.
"""

import re
from collections import Counter
from collections.abc import Iterator

LONG = 60  # characters of a passage that may be said once
SHORT = 12  # characters of a passage that is looked at; an ideograph counts as three
MIN_TIMES = 4  # of a short one
COPIES_SHARE = 0.5  # of the text's characters, in all copies but the first of each passage
_WIDE = 0x2E80  # the first ideograph, kana or Hangul
_LINE = re.compile("[\r\n\u2028\u2029]+")
_SENTENCE_END = re.compile("(?<=[.!?…])[\"'”’»)]*\\s+|(?<=[。！？])")
_LIST_MARK = re.compile(r"[\s>#]*(?:[-*+•–]|\(?\d{1,3}[.):])?\s+")
_FENCES = ("```", "~~~")


def said_again(text: str, allowed: Counter[str]) -> str:
    """Return a passage that the text says more often than `allowed`; "" if there is none.

    `allowed`: times by passage, as `count_passages` finds them in the source; "" for any passage.
    """
    counts = count_passages(text)
    most = allowed[""]
    again = {
        passage: num for passage, num in counts.items() if num > max(1, most, allowed[passage])
    }
    for passage in again:
        if weight(passage) >= LONG:
            return passage
    copies = {passage: num for passage, num in again.items() if num >= MIN_TIMES}
    num_copied = sum((num - 1) * len(passage) for passage, num in copies.items())
    return next(iter(copies)) if num_copied > COPIES_SHARE * len(text) else ""


def count_passages(text: str) -> Counter[str]:
    """Return how often each passage is said, in lower case and single spaces.

    Rules and other lines of marks are no passages.
    """
    return Counter(
        passage
        for passage in _passages(text)
        if weight(passage) >= SHORT and 2 * sum(map(str.isalnum, passage)) > len(passage)
    )


def weight(passage: str) -> int:
    """Return the length in characters, of an alphabet's width."""
    if passage.isascii():
        return len(passage)
    return len(passage) + 2 * sum(ord(character) >= _WIDE for character in passage)


def _passages(text: str) -> Iterator[str]:
    """Yield each line outside tables and fences, and its sentences where it has several."""
    is_code = False
    for line in _LINE.split(text):
        bare = line.strip()
        if bare.startswith(_FENCES):
            is_code = not is_code
        elif not is_code and not bare.startswith("|"):
            mark = _LIST_MARK.match(bare)
            whole = bare[mark.end() :] if mark else bare
            sentences = [part for part in _SENTENCE_END.split(whole) if part]
            for passage in [whole, *sentences] if len(sentences) > 1 else [whole]:
                yield " ".join(passage.casefold().split())
