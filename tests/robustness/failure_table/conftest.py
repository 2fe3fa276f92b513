"""A run as its owner has it: a folder, a manifest, the program as a process of its own."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

TIMEOUT_S = 900  # after which something hangs
NUM_ROWS = 60
MANIFEST = """\
model: {{id: "builtin:fake?{knobs}"}}
engine: {{max_seqs: 8}}
{more}
jobs:
  - {{name: greedy, kind: raw, input: {rows}, sampling: {{max_tokens: 24, ignore_eos: true}}}}
  - {{name: drawn, kind: raw, input: {rows}, priority: 1,
     sampling: {{max_tokens: 8, temperature: 0.8}}}}
"""
# A place in the middle of a run.
MIDDLE = "engine.step:60"
# Columns in which an undisturbed run and a disturbed one must agree.
ROWS = """select job, item_id, variant, text, verdict, finish_reason, output_tokens, seed, attempt
          from artifacts order by all"""
ENDS = """select count(*) filter (status = 'running'), count(*) filter (num_items is distinct from
          num_done + num_failed + num_reused + num_not_run) from runs"""
LEFT = {"lock", "status.json", "events.jsonl", "answers.json", "answers.jsonl", "engine.log"}
Rows = list[tuple[Any, ...]]


@dataclass(frozen=True)
class Outcome:
    """The outcome of a command."""

    code: int
    out: str
    err: str

    @property
    def said(self) -> str:
        return self.out + self.err


@dataclass
class Project:
    """One manifest and the commands that were started on it."""

    folder: Path
    started: list["Command"] = field(default_factory=list)
    store_path: Path | None = None
    prefix: tuple[str, ...] = ()  # in front of each command
    journal_from_here: Path | None = None  # where this process sees it elsewhere

    @property
    def store(self) -> Path:
        return self.store_path or self.folder / "artifacts.duckdb"

    @property
    def journal(self) -> Path:
        return self.store.with_name(self.store.name + ".journal")

    @property
    def seen(self) -> Path:
        return self.journal_from_here or self.journal

    def rows(self, num: int = NUM_ROWS, name: str = "rows.parquet") -> None:
        columns = {"id": list(range(num)), "prompt": [f"prompt {n}" for n in range(num)]}
        pq.write_table(pa.table(columns), self.folder / name)

    def manifest(
        self, knobs: str = "step_ms=2", more: str = "", rows: str = "rows.parquet"
    ) -> None:
        text = MANIFEST.format(knobs=knobs, more=more, rows=rows)
        (self.folder / "night.yaml").write_text(text)

    def start(self, *words: object, faults: str = "", group: bool = False) -> "Command":
        """Begins `thothy-batch` with these words."""
        command = Command(self, [str(word) for word in words], faults, group)
        self.started.append(command)
        return command

    def run(self, *options: object, faults: str = "") -> Outcome:
        """A run to its end."""
        return self.start_run(*options, faults=faults).end()

    def start_run(self, *options: object, faults: str = "", group: bool = False) -> "Command":
        words = ("run", self.folder / "night.yaml", "--store", self.store, *options)
        return self.start(*words, faults=faults, group=group)

    def start_and_reach_the_middle(self, *options: object, group: bool = False) -> "Command":
        """A run of which some entries are answered and most are not; it is held there."""
        command = self.start_run(*options, faults=self.hold(MIDDLE), group=group)
        command.wait_for(lambda: self.status().get("num_settled", 0) >= 8)
        command.wait_until_held()
        return command

    def hold(self, place: str) -> str:
        """The fault that holds the next command at a place until it is released."""
        return f"{place}=hold:{self.release_of(len(self.started))}"

    def release_of(self, number: int) -> Path:
        return self.folder / f"release-{number}"

    def status(self) -> dict[str, Any]:
        with contextlib.suppress(OSError, ValueError):
            return dict(json.loads((self.seen / "status.json").read_text()))
        return {}

    def catches(self, pid: int, number: int) -> bool:
        """True if a process has a handler for a signal."""
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith("SigCgt:"):
                    return bool(int(line.split()[1], 16) >> (number - 1) & 1)
        return False

    def query(self, sql: str) -> Rows:
        with duckdb.connect(str(self.store), read_only=True) as connection:
            return connection.execute(sql).fetchall()

    def check_whole(self, undisturbed: Rows) -> None:
        """The store is that of an undisturbed run, and nothing lies about."""
        assert self.query(ROWS) == undisturbed
        assert self.query(ENDS) == [(0, 0)]
        assert {path.name for path in self.journal.iterdir()} <= LEFT
        others = [path.name for path in self.store.parent.iterdir()]
        assert not [name for name in others if name.endswith((".tmp", ".wal"))]


class Command:
    """One process of the program. Its stderr goes to a file that can be watched."""

    def __init__(self, project: Project, words: list[str], faults: str, group: bool) -> None:
        self._project, self._number = project, len(project.started)
        self._log = project.folder / f"stderr-{self._number}.log"
        environment = {**os.environ, "THOTHY_FAULTS": faults, "PYTHONUNBUFFERED": ""}
        environment.pop("THOTHY_DEBUG", None)
        with self._log.open("wb") as stderr:
            self.process = subprocess.Popen(
                [*project.prefix, sys.executable, "-m", "thothy_batch", *words],
                cwd=project.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                start_new_session=group,
            )
        self._children: set[int] = set()

    @property
    def log(self) -> str:
        return self._log.read_text()

    def wait_for(self, seen: str | Callable[[], object]) -> None:
        """Until a word stands in stderr, or something holds."""
        deadline = time.monotonic() + TIMEOUT_S
        while not (seen in self.log if isinstance(seen, str) else seen()):
            assert not self.has_ended, f"ended before {seen!r}: {self.log}"
            assert time.monotonic() < deadline, f"{seen!r} did not come: {self.log}"
            time.sleep(0.005)

    @property
    def has_ended(self) -> bool:
        return self.process.poll() is not None

    @property
    def has_taken_over(self) -> bool:
        """True if a signal is caught; before that Python itself starts."""
        return self._project.catches(self.process.pid, signal.SIGTERM)

    def wait_until_taken_over(self) -> None:
        self.wait_for(lambda: self.has_taken_over)

    def wait_until_held(self) -> None:
        """Until it stands at the place where `Project.hold` holds it."""
        self.wait_for(self._project.release_of(self._number).with_suffix(".held").exists)

    def release(self) -> None:
        self._project.release_of(self._number).touch()

    def wait_until_stopping(self) -> None:
        """Until the run has noticed the signal and drains."""
        self.wait_for(lambda: self._project.status().get("state") == "stopping")

    def send(self, number: int, *, group: bool = False) -> None:
        self._children |= descendants(self.process.pid)
        (os.killpg if group else os.kill)(self.process.pid, number)

    def end(self, timeout_s: float = TIMEOUT_S) -> Outcome:
        """Waits for it. Whatever happened: no traceback, a known exit code, no process left."""
        self._children |= descendants(self.process.pid)
        out, _ = self.process.communicate(timeout=timeout_s)
        outcome = Outcome(self.process.returncode, out, self.log)
        assert "Traceback" not in outcome.said, outcome.said
        assert "Exception ignored" not in outcome.said, outcome.said
        assert outcome.code in {0, 1, 2, 3, 4, 5, -signal.SIGKILL}, outcome
        deadline = time.monotonic() + TIMEOUT_S
        while left := {pid for pid in self._children if is_alive(pid)}:
            assert time.monotonic() < deadline, f"processes are left: {left}"
            time.sleep(0.02)
        return outcome


def descendants(pid: int) -> set[int]:
    found: set[int] = set()
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, task.read_text().split()):
                found |= {child} | descendants(child)
    return found


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """120 entries, about a second and a half of steps where `step_ms` is 2."""
    made = Project(tmp_path)
    made.rows()
    made.manifest()
    yield made
    for command in made.started:
        if command.process.poll() is None:
            command.process.kill()
        command.process.communicate()


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    """The artifacts of the same run when nothing goes wrong."""
    made = Project(tmp_path_factory.mktemp("undisturbed"))
    made.rows()
    made.manifest()
    outcome = made.run("--quiet")
    assert outcome.code == 0, outcome
    return made.query(ROWS)
