"""Lost readers, full disks, closed descriptors and hostile text do not change a run's ending."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

_ESCAPES = "\x1b[2J\x9b31m\u202ex"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A manifest not yet run, with terminal escapes in its texts."""
    rows = {"id": ["a", "b"], "prompt": [f"one {_ESCAPES}", "two"]}
    pq.write_table(pa.table(rows), tmp_path / "rows.parquet")
    (tmp_path / "manifest.yaml").write_text(
        'model: {id: "builtin:fake"}\njobs:\n'
        "  - {name: j, kind: raw, input: rows.parquet, sampling: {max_tokens: 8}}\n"
    )
    return tmp_path


def shell(folder: Path, words: str) -> subprocess.CompletedProcess[str]:
    line = f'set -o pipefail; "{sys.executable}" -m thothy_batch {words}'
    return subprocess.run(
        ["bash", "-c", line], cwd=folder, capture_output=True, text=True, timeout=120
    )


@pytest.mark.rest
@pytest.mark.parametrize(
    "where",
    ["2>&1 | true", "| true", ">&-", "2>&-", "<&- >&- 2>&-", "2>/dev/full", "--json | true"],
)
def test_a_lost_reader_or_log_does_not_change_how_a_run_ends(folder: Path, where: str) -> None:
    done = shell(folder, f"run manifest.yaml {where}")
    assert (done.returncode, done.stderr.count("Traceback")) == (0, 0), done.stderr
    again = json.loads(shell(folder, "run manifest.yaml --json").stdout)
    assert (again["num_reused"], again["num_items"]) == (2, 2)


@pytest.mark.rest
@pytest.mark.parametrize("words", ["run manifest.yaml", "run manifest.yaml --json", "--help"])
def test_a_full_disk_under_stdout_is_reported(folder: Path, words: str) -> None:
    done = shell(folder, f"{words} > /dev/full")
    assert done.returncode == 5
    assert "cannot write to stdout: No space left" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_deleted_current_folder_is_reported(folder: Path) -> None:
    gone = folder / "gone"
    gone.mkdir()
    done = shell(gone, "--version; rmdir ../gone; " + f'"{sys.executable}" -m thothy_batch status')
    assert done.returncode == 2
    assert "the current folder cannot be used" in done.stderr


@pytest.mark.few(1)
@pytest.mark.parametrize("words", ["plan manifest.yaml", "plan manifest.yaml --json"])
def test_escapes_of_a_text_do_not_reach_the_terminal(folder: Path, words: str) -> None:
    done = shell(folder, words)
    assert done.returncode == 0, done.stderr
    assert "one" in done.stdout
    assert not set(_ESCAPES) & {"\x1b", "\x9b", "\u202e"} & set(done.stdout)
    named = shell(folder, "run manifest.yaml --job $'\\e[31mx'")
    assert (named.returncode, "\x1b" in named.stderr) == (2, False)


@pytest.mark.rest
def test_no_output_may_replace_the_store(folder: Path) -> None:
    assert shell(folder, "run manifest.yaml").returncode == 0
    before = (folder / "artifacts.duckdb").read_bytes()
    for words in (
        "export artifacts.duckdb -o artifacts.duckdb --format csv",
        "export artifacts.duckdb -o ./artifacts.duckdb.journal/x.csv",
        "report artifacts.duckdb --html artifacts.duckdb",
    ):
        done = shell(folder, words)
        assert done.returncode == 2
        assert "is the store itself" in done.stderr
    assert (folder / "artifacts.duckdb").read_bytes() == before


@pytest.mark.rest
@pytest.mark.parametrize("name", ["rows.parquet", "table.csv", "pipe", "what?.duckdb"])
def test_a_file_that_cannot_be_a_store_is_refused_before_anything_is_computed(
    folder: Path, name: str
) -> None:
    os.mkfifo(folder / "pipe")
    (folder / "table.csv").write_text("a,b\n1,2\n1,2\n1,2\n")
    done = shell(folder, f"run manifest.yaml --force --store '{name}'")
    assert done.returncode == 5
    assert "computing" not in done.stderr
    assert name in done.stderr
    assert (folder / "pipe").is_fifo()  # not replaced by a database
    assert not list(folder.glob("*.journal"))


@pytest.mark.rest
@pytest.mark.parametrize("words", ["run manifest.yaml", "init"])
def test_a_hostile_file_name_does_not_reach_the_terminal(folder: Path, words: str) -> None:
    name = "$'store\\e[31m\\u202e'"
    option = f"--store {name}" if words.startswith("run") else name
    done = shell(folder, f"{words} {option}")
    assert done.returncode == 0, done.stderr
    assert r"store\x1b[31m\u202e" in done.stdout
    assert not {"\x1b", "\u202e"} & set(done.stdout + done.stderr)
