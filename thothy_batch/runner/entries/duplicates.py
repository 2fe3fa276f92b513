"""Finds rows of a job that repeat an entry: the same id and, in translations, language."""

import hashlib

from thothy_batch.records import Item


class SeenEntries:
    """The entries of one job so far. Keeps 16 bytes of each, not its text."""

    def __init__(self, job: str) -> None:
        self._job = job
        self._seen: set[bytes] = set()
        self._counts: dict[bytes, int] = {}  # repeated entries only

    def mark(self, item_id: str, language: str = "") -> str:
        """Note an entry; return the suffix of its variant: "" for the first, then #2, #3, ..."""
        text = f"{len(language)}:{language}{item_id}"  # two texts, told apart
        digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
        if digest not in self._seen:
            self._seen.add(digest)
            return ""
        self._counts[digest] = self._counts.get(digest, 1) + 1
        return f"#{self._counts[digest]}"

    def message(self, item: Item, language: str = "") -> str:
        """Return the message of a row that repeats an entry."""
        what = f"duplicate id {item.item_id!r}" + (
            f" and language {language!r}" if language else ""
        )
        return f"{item.where}: {what} within job {self._job!r}: the first row with it is used"
