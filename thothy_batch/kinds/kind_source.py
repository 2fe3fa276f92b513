"""A kind file as plain values with lines: what reviews look at, also where types are wrong."""

from collections.abc import Iterator
from pathlib import Path

from thothy_batch.errors import Problem
from thothy_batch.yaml_source import Located

Keys = tuple[str | int, ...]


class KindSource:
    """Reads keys with a fallback for wrong types (those are found elsewhere)."""

    def __init__(self, located: Located, path: Path) -> None:
        self.values = mapping(located.value)
        self.params = mapping(self.values.get("params"))
        self.fields = texts(self.values.get("fields"))
        self.optional_fields = texts(self.values.get("optional_fields"))
        self.raw = self.values.get("raw") is True
        self.entry = str(self.values.get("entry", "item"))
        self._located = located
        self._path = str(path)
        self._lines = path.read_text(encoding="utf-8-sig").split("\n")

    def stages(self) -> list[dict[str, object]]:
        """The stages; one that is no mapping is empty."""
        stages = self.values.get("stages")
        return [mapping(stage) for stage in stages] if isinstance(stages, list) else []

    def templates(self) -> Iterator[tuple[Keys, str]]:
        """Where a template stands, and its text."""
        for key in ("system", "document"):
            yield (key,), text(self.values.get(key))
        for i, stage in enumerate(self.stages()):
            yield ("stages", i, "instruction"), text(stage.get("instruction"))

    def problem(self, keys: Keys, message: str, hint: str = "") -> Problem:
        """A problem at the line of the key, or of the nearest thing around it."""
        return Problem(message, self._path, self._located.line(*keys), hint)

    def template_problem(self, keys: Keys, line: int, message: str, hint: str) -> Problem:
        """A problem at a line inside a template."""
        name = ".".join(str(key) for key in keys)
        where = self._template_line(keys, line)
        return Problem(f"template {name}: {message}", self._path, where, hint)

    def _template_line(self, keys: Keys, line: int) -> int | None:
        """A `|` block begins below its key; of other forms the line of the key is told."""
        key_line = self._located.line(*keys)
        if key_line is None or key_line > len(self._lines):
            return key_line
        words = self._lines[key_line - 1].split(" #")[0].split()
        return key_line + line if words and words[-1].startswith("|") else key_line


def mapping(value: object) -> dict[str, object]:
    """The value, or an empty mapping."""
    return value if isinstance(value, dict) else {}


def texts(value: object) -> list[str]:
    """The texts of a list."""
    return [v for v in value if isinstance(v, str)] if isinstance(value, list) else []


def text(value: object) -> str:
    """The value, or an empty text."""
    return value if isinstance(value, str) else ""


def number(value: object) -> float | None:
    """The value, or None."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None
