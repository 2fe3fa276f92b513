"""The database file is never open twice in this process, and each refusal says what to do."""

import threading
from typing import Any

import duckdb
import pytest

from thothy_batch.errors import StoreBusyError
from thothy_batch.store.database.database import open_database
from thothy_batch.store.store import Store


def test_opening_twice_in_one_thread_is_our_own_mistake(harness: Any) -> None:
    twice = pytest.raises(AssertionError, match="while another one")
    with open_database(harness.path), twice, open_database(harness.path, read_only=True):
        pass
    with open_database(harness.path) as connection:  # the first one was not harmed
        assert connection.execute("SELECT 1").fetchall() == [(1,)]


def test_threads_take_turns(harness: Any) -> None:
    inside, most = [], []

    def use() -> None:
        for _ in range(5):
            with open_database(harness.path, read_only=len(most) % 2 == 0) as connection:
                inside.append(1)
                most.append(len(inside))
                connection.execute("SELECT count(*) FROM runs").fetchall()
                inside.pop()

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 20


def test_a_file_held_elsewhere_is_busy_and_names_the_holder(harness: Any) -> None:
    shut = pytest.raises(StoreBusyError, match="PID")
    with harness.reader(read_only=False), shut as caught, open_database(harness.path):
        pass
    assert "journal" in caught.value.hint


def test_a_path_with_a_quote_in_it_works(tmp_path: Any, rows: Any) -> None:
    path = tmp_path / "l'été; drop.duckdb"
    store = Store.open(path)
    store.begin_run({"run_id": "r1", "name": "n"})
    rows.add_done(store, 1)
    store.end_run({"status": "completed"})
    store.close()
    with duckdb.connect(str(path)) as connection:
        assert connection.execute("SELECT count(*) FROM artifacts").fetchall() == [(1,)]
