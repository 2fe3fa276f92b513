"""Finds Parquet files by path, folder and glob. Files that it cannot see become problems.

The rules are those of docs/inputs.md. Links are followed; a file that is reached in several ways is
read once, unless folders named key=value give its rows other values.
"""

import errno
import glob
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from thothy_batch.errors import Problem
from thothy_batch.manifest.data_file import (
    DataFile,
    hive_values,
    label_of,
    printable,
    state_of,
)

_ENDING = ".parquet"
_NO_NAME = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EINVAL)
_RIGHTS_HINT = "give the user who runs this the right to read it, or name the files without it"
_LINK_HINT = "repair the link or remove it"

_Hive = frozenset[tuple[str, str | None]]


@dataclass(slots=True)
class FoundFiles:
    """The files of all patterns; problems without a path concern a pattern as a whole."""

    files: list[DataFile] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def find_files(patterns: Iterable[str], base: Path) -> FoundFiles:
    """Return the files of all patterns, each once: by pattern, then by path."""
    search = _Search(base)
    for pattern in patterns:
        search.add_pattern(os.path.expanduser(pattern), pattern)
    return FoundFiles(list(search.files.values()), list(dict.fromkeys(search.problems)))


def is_parquet_name(name: str) -> bool:
    """True if a name has the ending of Parquet files, in capitals too."""
    return name.lower().endswith(_ENDING)


class _Search:
    """One search. Folders are walked by name, so that its order is the order of paths."""

    def __init__(self, base: Path) -> None:
        self._base = base
        self.files: dict[tuple[str, _Hive], DataFile] = {}
        self.problems: list[Problem] = []

    def add_pattern(self, pattern: str, written: str) -> None:
        """Add the files of a path, folder or glob."""
        num_problems = len(self.problems)
        paths = self._expand(pattern)
        walk = _Walk(self._base)
        found = [self._take(path, walk, is_named=True) for path in sorted(paths)]
        if any(found) or len(self.problems) > num_problems:
            return
        hint = f"no name in the folder ends in {_ENDING}" if paths else ""
        self.problems.append(Problem(f"no file matches {written!r}", hint=hint))

    def _expand(self, pattern: str) -> set[Path]:
        """Return the paths that a pattern names. An existing name is meant literally."""
        if "\0" in pattern:
            return set()
        path = self._base / pattern
        if self._exists(path):
            return {path}
        if not glob.has_magic(pattern):
            return set()
        parts = Path(pattern).parts
        if path.is_absolute() and Path(pattern).is_absolute():
            return set(self._matches(Path(path.anchor), parts[1:]))
        return set(self._matches(self._base, parts))

    def _exists(self, path: Path) -> bool:
        """True for any name, a dangling link too; a folder that hides its names is a problem."""
        try:
            os.lstat(path)
        except OSError as error:
            if error.errno not in _NO_NAME:
                self._report(path, f"cannot be read: {error.strerror}", _RIGHTS_HINT)
            return False
        return True

    def _matches(self, folder: Path, parts: tuple[str, ...]) -> Iterator[Path]:
        """Yield the paths below a folder that the parts of a glob name."""
        part, rest = parts[0], parts[1:]
        if part == "**":
            yield from self._any_depth(folder, rest, _Walk(self._base))
        elif not glob.has_magic(part):
            path = folder / part
            if self._exists(path):
                yield from self._matches(path, rest) if rest else (path,)
        else:
            names = [name for name in self._names(folder) if _fits(name, part, is_last=not rest)]
            for path in (folder / name for name in names):
                if not rest:
                    yield path
                elif self._is_folder(path):
                    yield from self._matches(path, rest)

    def _any_depth(self, folder: Path, rest: tuple[str, ...], walk: "_Walk") -> Iterator[Path]:
        """Yield what the rest of a glob names in this folder and in all below it."""
        below = walk.enter(folder)
        if below is None:
            return
        yield from self._matches(folder, rest) if rest else (folder,)
        for name in self._names(folder):
            path = folder / name
            if not _is_hidden(name) and self._is_folder(path):
                yield from self._any_depth(path, rest, below)

    def _take(self, path: Path, walk: "_Walk", *, is_named: bool = False) -> bool:
        """Add a file, or those below a folder. True if there was one.

        `is_named`: by the user, so that its ending says nothing.
        """
        found = self._stat(path)
        if found is None:
            return False
        if stat.S_ISDIR(found.st_mode):
            return self._take_folder(path, walk)
        if not is_named and not is_parquet_name(path.name):
            return False
        if not stat.S_ISREG(found.st_mode):
            self._report(path, f"is {_sort_of(found.st_mode)}, not a file", "remove it")
            return False
        hive = hive_values(path, self._base)
        file = DataFile(path, label_of(path, self._base), hive, state_of(found))
        self.files.setdefault((os.path.realpath(path), frozenset(hive.items())), file)
        return True

    def _take_folder(self, folder: Path, walk: "_Walk") -> bool:
        below = walk.enter(folder)
        if below is None:
            return walk.had_files(folder)
        num_problems = len(self.problems)
        names = [name for name in self._names(folder) if not _is_hidden(name)]
        any_file = any([self._take(folder / name, below) for name in names])  # all are taken
        below.note(folder, any_file)
        if not any_file and is_parquet_name(folder.name) and len(self.problems) == num_problems:
            self._report(folder, "is a folder without Parquet files", "fill it or remove it")
        return any_file

    def _names(self, folder: Path) -> list[str]:
        try:
            with os.scandir(folder) as entries:
                return sorted(entry.name for entry in entries)
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            self._report(folder, f"cannot be listed: {error.strerror}", _RIGHTS_HINT)
            return []

    def _is_folder(self, path: Path) -> bool:
        found = self._stat(path)
        return found is not None and stat.S_ISDIR(found.st_mode)

    def _stat(self, path: Path) -> os.stat_result | None:
        """Follow links. A link that leads nowhere is a problem: it may have been a folder."""
        try:
            return os.stat(path)
        except FileNotFoundError:
            if os.path.islink(path):
                target = printable(os.readlink(path))
                self._report(path, f"is a link to {target}, which does not exist", _LINK_HINT)
        except NotADirectoryError:
            pass
        except OSError as error:
            hint = _LINK_HINT if error.errno == errno.ELOOP else _RIGHTS_HINT
            self._report(path, f"cannot be read: {error.strerror}", hint)
        return None

    def _report(self, path: Path, message: str, hint: str) -> None:
        self.problems.append(Problem(message, label_of(path, self._base), hint=hint))


class _Walk:
    """The folders that one walk has entered, each by its real path and its hive values.

    A link to a folder above it or to one entered before is not followed, so every walk ends.
    """

    def __init__(self, base: Path) -> None:
        self._base = base
        self._above: frozenset[str] = frozenset()
        self._entered: dict[tuple[str, _Hive], bool] = {}

    def enter(self, folder: Path) -> "_Walk | None":
        """Return the walk of what is below the folder; None if it is not to be walked again."""
        real, hive = self._key(folder)
        if real in self._above or (real, hive) in self._entered:
            return None
        self._entered[real, hive] = False
        below = _Walk(self._base)
        below._above, below._entered = self._above | {real}, self._entered
        return below

    def note(self, folder: Path, any_file: bool) -> None:
        """Remember whether files were found below a folder."""
        self._entered[self._key(folder)] = any_file

    def had_files(self, folder: Path) -> bool:
        """True if files were found below the folder when it was entered."""
        return self._entered.get(self._key(folder), False)

    def _key(self, folder: Path) -> tuple[str, "_Hive"]:
        return os.path.realpath(folder), frozenset(hive_values(folder / "_", self._base).items())


def _is_hidden(name: str) -> bool:
    """True for what Spark and Arrow skip in a folder; _key=value is a folder of theirs."""
    return name.startswith(".") or (name.startswith("_") and "=" not in name)


def _fits(name: str, part: str, *, is_last: bool) -> bool:
    """True if a name matches one part of a glob. The case of the ending .parquet is ignored.

    A last part such as `*` is not meant to find the _SUCCESS that stands beside the files.
    """
    if name.startswith(".") and not part.startswith("."):
        return False
    if (
        is_last
        and _is_hidden(name)
        and not part.startswith((".", "_"))
        and not is_parquet_name(part)
    ):
        return False
    if is_parquet_name(part) and is_parquet_name(name):
        name, part = name[: -len(_ENDING)] + _ENDING, part[: -len(_ENDING)] + _ENDING
    return fnmatchcase(name, part)


def _sort_of(mode: int) -> str:
    if stat.S_ISFIFO(mode):
        return "a named pipe"
    return "a socket" if stat.S_ISSOCK(mode) else "a device"
