"""Folders and globs: every file is seen, once, or the reason why not is a problem."""

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from thothy_batch.manifest.file_search import FoundFiles, find_files

IS_ROOT = os.geteuid() == 0


@pytest.fixture
def found(tmp_path: Path) -> Callable[..., FoundFiles]:
    """found("data", ...) is the search below tmp_path."""
    return lambda *patterns: find_files(patterns, tmp_path)


@pytest.fixture
def touch(tmp_path: Path) -> Callable[..., None]:
    """touch("data/a.parquet", ...) makes files; what they hold is nothing to a search."""

    def make(*names: str) -> None:
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()

    return make


Found = Callable[..., FoundFiles]
Touch = Callable[..., None]


def labels(found: FoundFiles) -> list[str]:
    assert found.problems == []
    return [file.label for file in found.files]


def the_problem(found: FoundFiles) -> str:
    """The only problem: its path, what is wrong, and what to do."""
    [problem] = found.problems
    assert not problem.path or problem.hint
    return str(problem)


def test_files_of_a_folder_stand_in_the_order_of_their_paths(touch: Touch, found: Found) -> None:
    names = ["B.parquet", "a/z.parquet", "a/é.parquet", "a-1.parquet", "b.parquet", "b/c/a.parquet"]
    touch(*(f"data/{name}" for name in reversed(names)))
    whole = labels(found("data"))
    assert [name.removeprefix("data/") for name in whole] == [
        *("B.parquet", "a/z.parquet", "a/é.parquet", "a-1.parquet", "b/c/a.parquet", "b.parquet")
    ]
    assert labels(found("data/**/*.parquet")) == whole
    assert labels(found("data/**")) == whole
    assert labels(found("d*")) == whole


@pytest.mark.parametrize("pattern", ["data", "data/*.parquet", "data/*.PARQUET", "*/?.Parquet"])
def test_the_case_of_the_ending_is_ignored(touch: Touch, found: Found, pattern: str) -> None:
    touch("data/A.parquet", "data/D.PARQUET", "data/e.Parquet", "data/f.parquet.txt")
    assert labels(found(pattern)) == ["data/A.parquet", "data/D.PARQUET", "data/e.Parquet"]


def test_the_case_of_all_else_counts(touch: Touch, found: Found) -> None:
    touch("data/A.parquet")
    assert "no file matches 'data/a*.parquet'" in the_problem(found("data/a*.parquet"))


def test_links_to_files_and_folders_are_followed(
    touch: Touch, found: Found, tmp_path: Path
) -> None:
    touch("elsewhere/deep/a.parquet", "b.parquet", "data/c.parquet")
    (tmp_path / "data" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "d.parquet").symlink_to("../b.parquet")
    expected = ["data/c.parquet", "data/d.parquet", "data/linked/deep/a.parquet"]
    for pattern in ("data", "data/**/*.parquet", "data/**"):
        assert labels(found(pattern)) == expected


@pytest.mark.parametrize("pattern", ["data", "data/**/*.parquet", "data/**", "**/*.parquet"])
def test_loops_of_links_end_and_no_file_is_read_twice(
    touch: Touch, found: Found, tmp_path: Path, pattern: str
) -> None:
    for name in "pqrstuvw":
        touch(f"data/{name}/{name}.parquet")
        (tmp_path / "data" / name / "up").symlink_to("..")
        for other in "pqrstuvw":  # without a memory of folders: 8! ways through them
            (tmp_path / "data" / name / f"to-{other}").symlink_to(f"../{other}")
    files = found(pattern).files
    assert len(files) == 8
    assert len({os.path.realpath(file.path) for file in files}) == 8


def test_a_link_to_itself_is_a_problem(touch: Touch, found: Found, tmp_path: Path) -> None:
    touch("data/a.parquet")
    (tmp_path / "data" / "self").symlink_to("self")
    assert the_problem(found("data")).startswith("data/self: cannot be read: Too many levels")


def test_a_file_reached_in_two_ways_is_read_once(
    touch: Touch, found: Found, tmp_path: Path
) -> None:
    touch("data/v1/a.parquet")
    (tmp_path / "data" / "current").symlink_to("v1")
    assert labels(found("data")) == ["data/current/a.parquet"]
    assert labels(found("data/v1", "data", "data/v1/a.parquet")) == ["data/v1/a.parquet"]
    assert labels(found("data/current")) == ["data/current/a.parquet"]


def test_a_file_under_other_hive_values_holds_other_rows(
    touch: Touch, found: Found, tmp_path: Path
) -> None:
    touch("data/lang=en/a.parquet")
    (tmp_path / "data" / "lang=de").symlink_to("lang=en")
    files = found("data").files
    assert [file.hive for file in files] == [{"lang": "de"}, {"lang": "en"}]


def test_what_is_hidden_is_skipped(touch: Touch, found: Found) -> None:
    touch(
        *("data/a.parquet", "data/._a.parquet", "data/.hidden/b.parquet", "data/_SUCCESS"),
        *("data/_temporary/0/c.parquet", "data/.a.parquet.crc", "data/_metadata", "data/x.crc"),
    )
    assert labels(found("data")) == ["data/a.parquet"]
    assert labels(found("data/**/*.parquet")) == ["data/a.parquet"]
    assert labels(found("data/*.parquet")) == ["data/a.parquet"]
    assert labels(found("data/[!x]*")) == ["data/a.parquet"]
    assert labels(found("data/.hidden")) == ["data/.hidden/b.parquet"]
    assert labels(found("data/.*/*.parquet")) == ["data/.hidden/b.parquet"]


def test_a_partition_whose_name_begins_with_an_underscore_is_not_hidden(
    touch: Touch, found: Found
) -> None:
    touch("data/_day=1/a.parquet")
    assert [file.hive for file in found("data").files] == [{"_day": "1"}]


@pytest.mark.parametrize("pattern", ["data", "data/**", "data/*", "data/*/*.parquet"])
def test_a_dangling_link_is_a_problem(
    touch: Touch, found: Found, tmp_path: Path, pattern: str
) -> None:
    touch("data/sub/a.parquet")
    (tmp_path / "data" / "gone").symlink_to("/nowhere/at/all")
    said = the_problem(found(pattern))
    assert said.startswith("data/gone: is a link to /nowhere/at/all, which does not exist")


def test_a_dangling_link_that_is_named_is_a_problem(found: Found, tmp_path: Path) -> None:
    (tmp_path / "a.parquet").symlink_to("gone.parquet")
    for pattern in ("a.parquet", "*.parquet", str(tmp_path / "a.parquet")):
        assert "is a link to gone.parquet" in the_problem(found(pattern))


@pytest.fixture
def closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that may not be listed; for root, whom no rights stop, os.scandir refuses."""
    folder = tmp_path / "data" / "closed"
    folder.mkdir(parents=True)
    scandir = os.scandir

    def refusing(path: str) -> object:
        if Path(path) == folder:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    if IS_ROOT:
        monkeypatch.setattr(os, "scandir", refusing)
    else:
        folder.chmod(0o000)
    yield folder
    folder.chmod(0o700)


@pytest.mark.parametrize("pattern", ["data", "data/**/*.parquet", "data/*/*.parquet", "da*"])
def test_a_folder_that_may_not_be_listed_is_a_problem(
    touch: Touch, found: Found, closed: Path, pattern: str
) -> None:
    touch("data/a.parquet")
    said = the_problem(found(pattern))
    assert said.startswith("data/closed: cannot be listed: Permission denied (")


@pytest.mark.parametrize("name", ["data/x.parquet", "named"])
@pytest.mark.parametrize("sort", ["pipe", "socket"])
def test_what_is_no_file_is_a_problem_and_never_opened(
    found: Found, tmp_path: Path, name: str, sort: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    monkeypatch.chdir(path.parent)  # the path of a socket may not be long
    if sort == "pipe":
        os.mkfifo(path)
    else:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    said = the_problem(found(name.split("/")[0]))
    assert "named pipe, not a file" in said or "socket, not a file" in said
    assert name in said


def test_a_device_is_a_problem(found: Found) -> None:
    assert "/dev/null: is a device, not a file" in the_problem(found("/dev/null"))


def test_other_pipes_of_a_folder_are_nothing_to_it(
    touch: Touch, found: Found, tmp_path: Path
) -> None:
    touch("data/a.parquet")
    os.mkfifo(tmp_path / "data" / "control")
    assert labels(found("data")) == ["data/a.parquet"]


def test_a_folder_named_as_a_file_is_read_as_a_folder(
    touch: Touch, found: Found, tmp_path: Path
) -> None:
    touch("data/out.parquet/part-0.parquet")
    assert labels(found("data")) == ["data/out.parquet/part-0.parquet"]
    assert labels(found("data/*.parquet")) == ["data/out.parquet/part-0.parquet"]
    (tmp_path / "data" / "empty.parquet").mkdir()
    for pattern in ("data", "data/*.parquet"):
        said = the_problem(found(pattern))
        assert said.startswith("data/empty.parquet: is a folder without Parquet files")


@pytest.mark.parametrize("pattern", ["data", "data/*.parquet", "data/**", "none.parquet", "x/*/y"])
def test_an_input_without_files_is_a_problem(touch: Touch, found: Found, pattern: str) -> None:
    touch("data/notes.txt.gz")
    if pattern == "data/**":
        pattern = "data/**/*.parquet"
    assert f"no file matches {pattern!r}" in the_problem(found(pattern))


def test_names_with_the_characters_of_globs_are_meant_literally(
    touch: Touch, found: Found, tmp_path: Path
) -> None:
    touch("data[1]/a*.parquet", "data[1]/ab.parquet", "data1/c.parquet")
    assert labels(found("data[1]/a*.parquet")) == ["data[1]/a*.parquet"]
    assert labels(found("data[1]")) == ["data[1]/a*.parquet", "data[1]/ab.parquet"]
    assert labels(found("data[[]1]/*.parquet")) == ["data[1]/a*.parquet", "data[1]/ab.parquet"]
    inside = find_files(["*.parquet"], tmp_path / "data[1]")  # the manifest's own folder
    assert labels(inside) == ["a*.parquet", "ab.parquet"]


def test_a_name_that_is_no_utf8_is_shown_in_utf8(found: Found, tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"a\xff.parquet")).touch()
    assert labels(found("*.parquet")) == ["a\\xff.parquet"]


def test_a_file_that_vanishes_during_the_search_is_not_missed(
    touch: Touch, found: Found, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch("data/a.parquet", "data/b.parquet")
    stat = os.stat

    def late(path: object, **options: object) -> os.stat_result:
        (tmp_path / "data" / "b.parquet").unlink(missing_ok=True)
        return stat(path, **options)  # type: ignore[arg-type,call-overload,no-any-return]

    monkeypatch.setattr(os, "stat", late)
    assert labels(found("data")) == ["data/a.parquet"]
