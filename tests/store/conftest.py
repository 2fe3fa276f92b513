"""Short ways to write to a store and to read it, and a second process that holds it."""

import os
import shutil
import subprocess
import sys
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pytest

from thothy_batch.errors import LockHolder
from thothy_batch.store.files import lock_path
from thothy_batch.store.lock import FileLock
from thothy_batch.store.store import Store


class Harness:
    """A store's path, with short ways to write to it and to read it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def run(self, run_id: str = "r1", jobs: Any = (), **row: object) -> Iterator[Store]:
        """A locked store with a begun run; it is closed (not ended) on leaving."""
        lock = FileLock(lock_path(self.path)).acquire(LockHolder(pid=os.getpid(), run_id=run_id))
        try:
            store = Store.open(self.path)
            store.begin_run({"run_id": run_id, "name": "night", "jobs": jobs, **row})
            yield store
            store.close()
        finally:
            lock.release()

    def query(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        with duckdb.connect(str(self.path), read_only=True) as connection:
            return connection.execute(sql, list(values)).fetchall()

    def row(self, sql: str, *values: object) -> dict[str, Any]:
        with duckdb.connect(str(self.path), read_only=True) as connection:
            cursor = connection.execute(sql, list(values))
            names = [column[0] for column in cursor.description or ()]
            (found,) = cursor.fetchall()
        return dict(zip(names, found, strict=True))

    @contextmanager
    def reader(self, *, read_only: bool) -> Iterator[None]:
        """Another process that has the database open until the block ends."""
        code = (
            "import duckdb, sys\n"
            f"c = duckdb.connect({str(self.path)!r}, read_only={read_only})\n"
            "print('open', flush=True)\n"
            "sys.stdin.read()\n"
        )
        with subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline() == b"open\n"
                yield
            finally:
                process.communicate()


def artifact(item: object, **more: object) -> Mapping[str, object]:
    """An artifact row of job `j`."""
    values = {"text": f"text of {item}", "verdict": "ok", "flags": [], "finish_reason": "stop"}
    counts = {"prompt_tokens": 10, "cached_prompt_tokens": 4, "output_tokens": 5}
    place = {"job": "j", "kind": "summary", "item_id": str(item)}
    ids = {"artifact_id": f"a{item}", "request_key": f"k{item}"}
    return {**ids, **place, **values, **counts, "queue_s": 0.5, "engine_s": 1.0, **more}


def add_done(store: Store, item: object, **more: object) -> None:
    """An artifact and its entry."""
    row = artifact(item, **more)
    store.add("artifacts", row)
    entry = {name: row[name] for name in ("job", "item_id", "artifact_id", "verdict")}
    store.add("run_items", {**entry, "status": "done"})


def add_failed(store: Store, item: object, code: str = "invalid_output", **more: object) -> None:
    """A failure and its entry."""
    row = {"job": "j", "kind": "summary", "item_id": str(item), "code": code, "message": "bad"}
    store.add("failures", {**row, "attempt": 1, "request_key": f"k{item}", **more})
    store.add("run_items", {"job": "j", "item_id": str(item), "status": "failed"})


@pytest.fixture(scope="session")
def new_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store as it is made. Making one costs more than copying it."""
    path = tmp_path_factory.mktemp("new") / "artifacts.duckdb"
    Store.open(path).close()
    return path


@pytest.fixture
def harness(tmp_path: Path, new_store: Path) -> Harness:
    """A store without runs."""
    path = tmp_path / "artifacts.duckdb"
    shutil.copy(new_store, path)
    return Harness(path)


@pytest.fixture
def blank(tmp_path: Path) -> Harness:
    """A path without a store."""
    return Harness(tmp_path / "artifacts.duckdb")


@pytest.fixture
def rows() -> Any:
    """The row makers above: `rows.artifact`, `rows.add_done`, `rows.add_failed`."""
    return types.SimpleNamespace(artifact=artifact, add_done=add_done, add_failed=add_failed)


@pytest.fixture(autouse=True)
def _short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("thothy_batch.store.store._CLOSE_PATIENCE_S", 0.1)
