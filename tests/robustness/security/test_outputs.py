"""Files that commands write: whole or not at all, never through a link, never over the store."""

import csv
import secrets
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import pytest

from thothy_batch.errors import ManifestError, StoreError, ThothyError
from thothy_batch.runner.commands.init import init_folder
from thothy_batch.runner.commands.report import export_artifacts, report_document, write_page

FORMATS = ("csv", "jsonl", "parquet")


LEADS = ["=", "+", "-", "@", "\t", "\r", "\n", " =", "\t +", '"=', "\uff1d", "\u00a0=", "\ufeff="]
FORMULA = 'cmd|" /C calc"!A0'
PLAIN = ["plain -1", "'=1", "1+1", "a@b", "(=)"]


@pytest.fixture(scope="module")
def finished_project(fake_project: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the store of a small run."""
    project = fake_project(tmp_path_factory.mktemp("night"))
    ids = [lead + FORMULA for lead in LEADS] + PLAIN
    project.rows("rows.parquet", id=ids, prompt=[f"p{i}" for i in ids])
    project.jobs("name: j, kind: raw, input: rows.parquet, sampling: {max_tokens: 4}")
    assert project.run().exit_code == 0
    return Path(project.folder)


@pytest.fixture
def store(finished_project: Path, tmp_path: Path) -> Path:
    """A copy of it, beside what a test makes."""
    return Path(shutil.copytree(finished_project, tmp_path / "night")) / "artifacts.duckdb"


def export(store: Path, output: Path, format: str = "csv") -> int:
    return export_artifacts(store, job=None, run=None, format=format, output=output)


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_what_a_spreadsheet_takes_for_a_formula_gets_an_apostrophe(
    store: Path, tmp_path: Path
) -> None:
    assert export(store, tmp_path / "o.csv") == len(LEADS) + len(PLAIN)
    with open(tmp_path / "o.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["item_id"] for row in rows} == {f"'{lead}{FORMULA}" for lead in LEADS} | {*PLAIN}
    assert all(row["output_tokens"].isdigit() for row in rows)


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
def test_other_formats_hold_every_text_as_it_is(store: Path, tmp_path: Path, format: str) -> None:
    output = tmp_path / f"o.{format}"
    export(store, output, format)
    found = duckdb.sql(f"select item_id from '{output}'").fetchall()
    assert {item for (item,) in found} == {lead + FORMULA for lead in LEADS} | {*PLAIN}


@pytest.mark.parametrize("format", FORMATS)
def test_an_export_replaces_a_link_and_not_what_it_names(
    store: Path, tmp_path: Path, format: str
) -> None:
    victim, link = tmp_path / "victim", tmp_path / "out"
    victim.write_text("precious")
    link.symlink_to(victim)
    export(store, link, format)
    assert victim.read_text() == "precious"
    assert not link.is_symlink()
    assert link.stat().st_size > 0


def test_a_page_replaces_a_link_and_not_what_it_names(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim, link = tmp_path / "victim", tmp_path / "page.html"
    victim.write_text("precious")
    link.symlink_to(victim)
    monkeypatch.setattr(secrets, "token_hex", lambda num_bytes: "guessed")
    (tmp_path / "page.html.guessed.tmp").symlink_to(victim)
    write_page(report_document(store, None), link, store)
    assert victim.read_text() == "precious"
    assert link.read_text().startswith("<!doctype html>")


@pytest.mark.parametrize("how", ["itself", "link", "wal", "journal", "dots"])
def test_the_store_is_never_an_output(store: Path, tmp_path: Path, how: str) -> None:
    link = tmp_path / "link"
    link.symlink_to(store)
    output = {
        "itself": store,
        "link": link,
        "wal": store.with_name(store.name + ".wal"),
        "journal": store.with_name(store.name + ".journal") / "lock",
        "dots": store.parent / ".." / store.parent.name / store.name,
    }[how]
    before = store.read_bytes()
    for write in (
        lambda: export(store, output),
        lambda: write_page(report_document(store, None), output, store),
    ):
        with pytest.raises(ManifestError, match="the store itself") as caught:
            write()
        assert caught.value.exit_code == 2
    assert store.read_bytes() == before


@pytest.mark.parametrize("output", ["a_folder", "missing/out.csv", "a_file/out.csv"])
def test_a_place_that_takes_no_file_is_told_and_left_as_it_was(
    store: Path, tmp_path: Path, output: str
) -> None:
    (tmp_path / "a_folder").mkdir()
    (tmp_path / "a_file").write_text("old")
    before = names(tmp_path)
    for write in (
        lambda: export(store, tmp_path / output),
        lambda: write_page(report_document(store, None), tmp_path / output, store),
    ):
        with pytest.raises(StoreError) as caught:
            write()
        assert output.split("/")[0] in caught.value.message
        assert caught.value.hint
    assert names(tmp_path) == before


_FULL = """
import resource, signal, sys
from pathlib import Path
from thothy_batch.errors import StoreError
from thothy_batch.runner.commands.report import export_artifacts, report_document, write_page
store, output = Path(sys.argv[1]), Path(sys.argv[2])
data = report_document(store, None)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (16, 16))
try:
    if output.suffix == ".html":
        write_page(data, output, store)
    else:
        export_artifacts(store, job=None, run=None, format=None, output=output)
except StoreError as error:
    print(error.message, "/", error.hint)
"""


@pytest.mark.few(1)
@pytest.mark.parametrize("name", ["o.csv", "o.jsonl", "o.parquet", "o.html"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    store: Path, tmp_path: Path, name: str
) -> None:
    output = tmp_path / name
    output.write_text("old")
    before = names(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", _FULL, store, output], capture_output=True, text=True, check=True
    )
    assert "ulimit -f" in done.stdout or "too large" in done.stdout.lower(), done
    assert output.read_text() == "old"
    assert names(tmp_path) == before


def test_a_full_disk_is_told(store: Path) -> None:
    for write in (
        lambda: export(store, Path("/dev/full")),
        lambda: write_page(report_document(store, None), Path("/dev/full"), store),
    ):
        with pytest.raises(StoreError, match="No space left on device"):
            write()


@pytest.mark.parametrize("name", ["manifest.yaml", "products.parquet", "crontab.txt"])
def test_init_writes_over_nothing_and_through_no_link(tmp_path: Path, name: str) -> None:
    folder, outside = tmp_path / "new", tmp_path / "outside"
    folder.mkdir()
    (folder / name).symlink_to(outside)
    with pytest.raises(ManifestError, match="exists already"):
        init_folder(folder)
    assert not outside.exists()
    assert names(folder) == {name}


def test_init_leaves_no_half_of_a_starter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ManifestError, match="cannot write"):
        init_folder(tmp_path / "file" / "new")
    folder = tmp_path / "new"
    folder.mkdir()
    monkeypatch.setattr("builtins.open", _refusing(2))
    with pytest.raises(ThothyError, match="No space left"):
        init_folder(folder)
    assert names(folder) == set()


def _refusing(after: int) -> Any:
    """`open` on a disk that is full after some files."""
    real, made = open, []

    def opened(path: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
        if "x" in mode:
            made.append(path)
            if len(made) > after:
                raise OSError(28, "No space left on device")
        return real(path, mode, *args, **options)

    return opened
