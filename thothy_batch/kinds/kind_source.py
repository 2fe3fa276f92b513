"""A kind file as plain values with line numbers, readable even if types are wrong."""

from collections.abc import Iterator
from pathlib import Path

from thothy_batch.errors import Problem
from thothy_batch.yaml_source import Located

Keys = tuple[str | int, ...]


class KindSource:
    """Reads keys with a fallback for wrong types, which are reported elsewhere."""

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
        """Return the stages; one that is not a mapping is empty."""
        stages = self.values.get("stages")
        return [mapping(stage) for stage in stages] if isinstance(stages, list) else []

    def templates(self) -> Iterator[tuple[Keys, str]]:
        """Yield the keys and the text of each template."""
        for key in ("system", "document"):
            yield (key,), text(self.values.get(key))
        for i, stage in enumerate(self.stages()):
            yield ("stages", i, "instruction"), text(stage.get("instruction"))

    def problem(self, keys: Keys, message: str, hint: str = "") -> Problem:
        """Make a problem at the line of the key, or of its nearest existing parent."""
        return Problem(message, self._path, self._located.line(*keys), hint)

    def template_problem(self, keys: Keys, line: int, message: str, hint: str) -> Problem:
        """Make a problem at a line inside a template."""
        name = ".".join(str(key) for key in keys)
        where = self._template_line(keys, line)
        return Problem(f"template {name}: {message}", self._path, where, hint)

    def _template_line(self, keys: Keys, line: int) -> int | None:
        """Return the line in the file. A `|` block begins below its key, other forms at the key."""
        key_line = self._located.line(*keys)
        if key_line is None or key_line > len(self._lines):
            return key_line
        words = self._lines[key_line - 1].split(" #")[0].split()
        return key_line + line if words and words[-1].startswith("|") else key_line


def mapping(value: object) -> dict[str, object]:
    """Return the value, or an empty mapping."""
    return value if isinstance(value, dict) else {}


def texts(value: object) -> list[str]:
    """Return the strings of a list."""
    return [v for v in value if isinstance(v, str)] if isinstance(value, list) else []


def text(value: object) -> str:
    """Return the value, or an empty string."""
    return value if isinstance(value, str) else ""


def number(value: object) -> float | None:
    """Return the value, or None."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None
