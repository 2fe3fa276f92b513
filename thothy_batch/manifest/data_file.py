"""A Parquet file of an input: its path, its name in messages, and the values of its folders."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

_HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"

# Device, inode, size and time of the last change: with another value the content may be another.
FileState = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class DataFile:
    """A Parquet file. `label` is its path in messages, `state` how it was when it was found."""

    path: Path
    label: str
    hive: dict[str, str | None] = field(default_factory=dict)  # from folders named key=value
    state: FileState | None = None


def state_of(found: os.stat_result) -> FileState:
    """Return the state of a file from its os.stat."""
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def label_of(path: Path, base: Path) -> str:
    """Return the path as messages name it: relative to the manifest's folder, in valid UTF-8."""
    return printable(str(path.relative_to(base)) if path.is_relative_to(base) else str(path))


def printable(name: str) -> str:
    """Return a file name in valid UTF-8; other bytes of it are written as \\xff."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def hive_values(path: Path, base: Path) -> dict[str, str | None]:
    """Return the values of the folders named key=value that a file lies in."""
    folders = path.relative_to(base) if path.is_relative_to(base) else path
    pairs = [part.split("=", 1) for part in folders.parts[:-1] if "=" in part]
    values = {unquote(key): unquote(value) for key, value in pairs if key}
    return {key: None if value == _HIVE_NULL else value for key, value in values.items()}
