"""A cell that cannot be used."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bad:
    """An unusable cell. `why` continues a sentence that begins with the column's name."""

    why: str
