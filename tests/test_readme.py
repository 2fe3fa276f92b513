"""README.md is true: its generated parts are up to date, its queries run as printed."""

import re
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
QUERIES = re.findall(r"```sql\n(.*?)```", README, flags=re.DOTALL)


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first rows of each job of the sample night, some bad ones among them."""
    store = tmp_path_factory.mktemp("readme") / "artifacts.duckdb"
    command = [sys.executable, "-m", "thothy_batch", "run", "sample_data/manifest.yaml"]
    done = subprocess.run(
        [*command, "--store", str(store), "--limit", "30", "--quiet"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode in (0, 1), done.stderr
    return store


def test_there_are_queries_to_run() -> None:
    assert len(QUERIES) >= 5


@pytest.mark.rest
@pytest.mark.parametrize("query", QUERIES, ids=range(len(QUERIES)))
def test_queries_run_as_printed(night: Path, query: str) -> None:
    with duckdb.connect(str(night), read_only=True) as db:
        cursor = db.execute(query)
        assert cursor.description
        if "flagged" not in query:
            assert cursor.fetchall(), "the query returned no row"


@pytest.mark.rest
def test_generated_parts_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests/docs.py")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
