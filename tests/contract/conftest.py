"""Fixtures of a stranger: a folder, the command line, Parquet and YAML files, SQL on the store.

Nothing here imports the package: the suite holds the program to its public interface.
"""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

FAKE = "builtin:fake"
TIMEOUT_S = 900
EXIT_CODES = range(6)

_HOLD = """
import sys, duckdb
connection = duckdb.connect(sys.argv[1], read_only=sys.argv[2] == "read-only")
print("open", flush=True)
sys.stdin.readline()
connection.close()
"""


@dataclass(frozen=True)
class Outcome:
    """The outcome of one command."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        """The one document on stdout."""
        return json.loads(self.stdout)

    def error_line(self, *parts: str) -> str:
        """The one line of stderr that holds all of `parts`."""
        for line in self.stderr.splitlines():
            if all(part in line for part in parts):
                return line
        pytest.fail(f"no line of stderr holds {parts}:\n{self.stderr}")


def checked(code: int, stdout: str, stderr: str) -> Outcome:
    """Every command ends with a known exit code and without a traceback."""
    for text in (stdout, stderr):
        assert "Traceback" not in text, text
    assert code in EXIT_CODES, f"exit code {code}\n{stdout}\n{stderr}"
    return Outcome(code, stdout, stderr)


@dataclass
class Folder:
    """A manifest's folder and the program that is pointed at it."""

    path: Path
    cwd: Path
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def store(self) -> Path:
        return self.path / "artifacts.duckdb"

    def parquet(self, name: str, columns: Any, schema: pa.Schema | None = None) -> Path:
        """Write a Parquet file of a dict of columns or a list of rows."""
        rows = isinstance(columns, list)
        table = pa.Table.from_pylist(columns, schema) if rows else pa.table(columns, schema)
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, target)
        return target

    def texts(self, name: str, count: int, start: int = 0) -> Path:
        """A Parquet file of ids i<n> and distinct texts."""
        numbers = range(start, start + count)
        return self.parquet(
            name,
            {
                "id": [f"i{n}" for n in numbers],
                "text": [f"Text number {n} on the lamp L-{n}, {n + 3} W." for n in numbers],
            },
        )

    def manifest(self, text: str, name: str = "night.yaml", model: str | None = FAKE) -> Path:
        head = f'model: {{id: "{model}"}}\n' if model else ""
        target = self.path / name
        target.write_text(head + textwrap.dedent(text).lstrip("\n"))
        return target

    def line_of(self, part: str, name: str = "night.yaml") -> int:
        """Line number, from 1, of the first line of the manifest that holds `part`."""
        lines = (self.path / name).read_text().splitlines()
        return next(number for number, line in enumerate(lines, 1) if part in line)

    def command(self, *arguments: object) -> list[str]:
        script = Path(sys.executable).with_name("thothy-batch")
        program = [str(script)] if script.exists() else [sys.executable, "-m", "thothy_batch"]
        return program + [str(argument) for argument in arguments]

    def call(
        self,
        *arguments: object,
        cwd: Path | None = None,
        env: dict[str, str] | None = None,
        preexec: Callable[[], None] | None = None,
    ) -> Outcome:
        """Run a command to its end."""
        done = subprocess.run(
            self.command(*arguments),
            cwd=cwd or self.cwd,
            env=environment() | (env or {}),
            capture_output=True,
            encoding="utf-8",
            timeout=TIMEOUT_S,
            stdin=subprocess.DEVNULL,
            preexec_fn=preexec,
        )
        return checked(done.returncode, done.stdout, done.stderr)

    def run(self, *options: object, manifest: str = "night.yaml", **keywords: Any) -> Outcome:
        return self.call("run", self.path / manifest, *options, **keywords)

    def start(self, *options: object, manifest: str = "night.yaml") -> subprocess.Popen[str]:
        """Begin a run and return when some answers are in the store; it computes no more of them,
        as its engine is held. Its stderr goes to <folder>/run-<n>.log."""
        log = self.path / f"run-{len(self.started)}.log"
        with log.open("w") as stderr:
            process = subprocess.Popen(
                self.command("run", self.path / manifest, *options),
                cwd=self.cwd,
                env=environment() | {"THOTHY_FAULTS": f"engine.step:40=hold:{self.path / 'never'}"},
                stdout=subprocess.PIPE,
                stderr=stderr,
                stdin=subprocess.DEVNULL,
                encoding="utf-8",
            )
        self.started.append(process)
        deadline = time.monotonic() + TIMEOUT_S
        while not self._num_artifacts():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, "the run never answered anything"
            time.sleep(0.2)
        return process

    def _num_artifacts(self) -> int:
        """None as long as there is no store, or the run writes into it."""
        with suppress(duckdb.Error):
            return int(self.one("select count(*) from artifacts"))
        return 0

    def end(self, process: subprocess.Popen[str]) -> Outcome:
        """Wait for a run that was started."""
        stdout, _ = process.communicate(timeout=TIMEOUT_S)
        log = self.path / f"run-{self.started.index(process)}.log"
        return checked(process.returncode, stdout, log.read_text())

    def sql(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Rows of a query, as an editor's DuckDB client gets them."""
        with duckdb.connect(str(self.store), read_only=True) as connection:
            return connection.execute(query, list(values)).fetchall()

    def one(self, query: str, *values: object) -> Any:
        """The one value of a query."""
        ((value,),) = self.sql(query, *values)
        return value

    def last_run(self) -> dict[str, Any]:
        """The newest row of `runs`."""
        with duckdb.connect(str(self.store), read_only=True) as connection:
            cursor = connection.execute("from runs order by started_at desc limit 1")
            names = [column[0] for column in cursor.description]
            (row,) = cursor.fetchall()
        return dict(zip(names, row, strict=True))

    @contextmanager
    def held_open(self, mode: str) -> Iterator[None]:
        """Another process has the store open, "read-only" or "read-write"."""
        reader = subprocess.Popen(
            [sys.executable, "-c", _HOLD, str(self.store), mode],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
        )
        try:
            assert reader.stdout is not None
            assert reader.stdout.readline() == "open\n"
            yield
        finally:
            reader.communicate("\n")

    def stop_all(self) -> None:
        for process in self.started:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.communicate()


def environment() -> dict[str, str]:
    """As cron has it, more or less: no terminal, no network, no debugging."""
    kept = {name: value for name, value in os.environ.items() if name != "THOTHY_DEBUG"}
    return kept | {"HF_HUB_OFFLINE": "1", "LANG": "C.UTF-8", "COLUMNS": "200"}


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    """A folder of a test's own; commands run from beside it, not from within."""
    yield from _folder(tmp_path)


@pytest.fixture(scope="module")
def module_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Folder]:
    """A folder that the tests of a module look at."""
    yield from _folder(tmp_path_factory.mktemp("night"))


def _folder(path: Path) -> Iterator[Folder]:
    inside, beside = path / "night", path / "elsewhere"
    inside.mkdir()
    beside.mkdir()
    made = Folder(inside, beside)
    yield made
    made.stop_all()
