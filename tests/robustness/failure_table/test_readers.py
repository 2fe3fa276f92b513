"""Another program holds the store for the whole run: no row is lost, and the next command shows."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

_HOLD = """
import sys, duckdb
connection = duckdb.connect(sys.argv[1], read_only=sys.argv[2] == "read-only")
connection.execute("select count(*) from artifacts").fetchall()
print("open", flush=True)
sys.stdin.readline()
connection.close()
"""


@contextmanager
def held(project: Any, mode: str) -> Iterator[None]:
    command = [sys.executable, "-c", _HOLD, str(project.store), mode]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "open\n"
        yield
        reader.communicate("\n")


@pytest.mark.rest
@pytest.mark.parametrize(
    ("mode", "next_command"),
    [("read-only", "report"), pytest.param("read-write", "run", marks=pytest.mark.rest)],
)
def test_a_program_that_holds_the_store_for_the_whole_run(
    project: Any, undisturbed: Any, mode: str, next_command: str
) -> None:
    assert project.run("--limit", 3).code == 0
    with held(project, mode):
        outcome = project.run()
        assert outcome.code == 0, outcome
        assert (
            "another program has the store open: the journal keeps the unpublished rows"
            in outcome.out
        )
        assert "the next command that opens the store publishes them" in outcome.out
        assert list(project.journal.glob("*.seg"))
        status = project.start("status", project.store).end()
        assert status.code == 0
        assert "another program has the store open, or its disk is full: some rows" in status.out
    if next_command == "report":
        report = project.start("report", project.store).end()
        assert report.code == 0, report
    else:
        again = project.run()
        assert "nothing left to do: 120 entries were reused" in again.out
    project.check_whole(undisturbed)
    (run, *_) = project.query("select num_done, num_reused from runs order by started_at offset 1")
    assert run == (114, 6)
