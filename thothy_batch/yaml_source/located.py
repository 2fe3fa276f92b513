"""Plain values of a YAML file with the line of each."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from thothy_batch.errors import Problem

Keys = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Located:
    """The values of a YAML file and the line of each key and list entry.

    `problems` are faults that left a readable value (duplicate keys, unknown tags); `validate`
    returns them with its own, and looks no further at the values at `unreadable`. `texts` are the
    texts of values that variables made a number, a switch or null: `validate` takes them where
    only text fits.
    """

    value: object
    path: str
    lines: Mapping[Keys, int]
    problems: tuple[Problem, ...] = ()
    unreadable: frozenset[Keys] = frozenset()
    texts: Mapping[Keys, str] = field(default_factory=dict)

    def line(self, *keys: str | int) -> int | None:
        """Return the line of the value at `keys`, or of its nearest existing parent."""
        return self.lines.get(self.resolve(keys))

    def resolve(self, keys: Iterable[str | int]) -> Keys:
        """Return the part of `keys` that exists in the file; other keys are skipped."""
        found: Keys = ()
        for key in keys:
            if (*found, key) in self.lines:
                found = (*found, key)
        return found
