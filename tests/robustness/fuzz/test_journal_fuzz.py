"""Journals of killed nights, damaged: what is whole reaches the database once, and no more."""

import os
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pytest
from bounds import LONG, check_sentences, examples, within
from fuzz_night import fresh_folder
from hypothesis import given
from hypothesis import strategies as st

from thothy_batch.errors import StoreError
from thothy_batch.records import EntryKey
from thothy_batch.store.files import journal_folder
from thothy_batch.store.journal.segment import MAGIC, encode_record, read_segment, segment_paths
from thothy_batch.store.store import Store

SECONDS = 20.0
NUM_ROWS = 6
STORE = "artifacts.duckdb"


@dataclass(frozen=True, repr=False)
class Killed:
    """A night that died: what lies on the disk, and where each record of its segment stands."""

    folder: Path
    segment: str
    data: bytes
    spans: tuple[tuple[int, int], ...]  # begin and end of each record
    rows: tuple[tuple[str, dict[str, Any]], ...]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Killed:
    """One row is published, the others are committed, and nobody closed the store."""
    folder = tmp_path_factory.mktemp("killed")
    store = Store.open(folder / STORE)
    keys = [EntryKey("j", str(number), "") for number in range(NUM_ROWS + 2)]
    jobs = [{"job": "j", "kind": "summary", "priority": 5, "num_items": len(keys)}]
    store.begin_run({"run_id": "r1", "name": "night", "jobs": jobs}, keys)
    _add(store, 0)
    store.publish()
    for number in range(1, NUM_ROWS):
        _add(store, number)
    store.add("failures", {"job": "j", "item_id": "x", "code": "engine_error", "message": "bad"})
    store._journal.commit()
    copy = tmp_path_factory.mktemp("copy")
    shutil.copytree(folder, copy, dirs_exist_ok=True)
    store.close()
    (path,) = segment_paths(journal_folder(copy / STORE))
    return _described(copy, path)


def _add(store: Store, number: int) -> None:
    place = {"job": "j", "item_id": str(number), "artifact_id": f"a{number}"}
    text = f"text {number} é\0\n " * number
    more = {"kind": "summary", "text": text, "request_key": f"k{number}", "output_tokens": number}
    store.add("artifacts", {**place, **more, "prompt_tokens": 3, "cached_prompt_tokens": 0})
    store.add("run_items", {**place, "status": "done"})


def _described(folder: Path, path: Path) -> Killed:
    spans, rows, end = [], [], len(MAGIC)
    for table, row in read_segment(path).records:
        size = len(encode_record(path.stem, table, row))
        spans.append((end, end + size))
        rows.append((table, dict(row)))
        end += size
    assert end == path.stat().st_size
    return Killed(folder, path.name, path.read_bytes(), tuple(spans), tuple(rows))


def opened(killed: Killed, folder: Path, data: bytes) -> list[Counter[Any]]:
    """Contents of the database after the store was opened over this segment, twice."""
    journal = journal_folder(folder / STORE)
    (journal / killed.segment).write_bytes(data)
    found = []
    for _ in range(2):
        with within(SECONDS):
            Store.open(folder / STORE).close()
        found.append(content(folder / STORE))
        assert not segment_paths(journal)
    assert found[0] == found[1]
    return found[0]


def content(path: Path) -> list[Counter[Any]]:
    """Artifacts, done entries and failures, each with how often it stands there."""
    queries = (
        "SELECT artifact_id, item_id, text, request_key, output_tokens FROM artifacts",
        "SELECT item_id, artifact_id FROM run_items WHERE status = 'done'",
        "SELECT item_id, code, message FROM failures",
    )
    with duckdb.connect(str(path), read_only=True) as connection:
        found = [Counter(connection.execute(query).fetchall()) for query in queries]
        twice = "SELECT 1 FROM run_items GROUP BY run_id, job, item_id, variant HAVING count(*) > 1"
        assert not connection.execute(twice).fetchall()
        statuses = connection.execute("SELECT status, stop_reason FROM runs").fetchall()
    assert statuses == [("failed", "killed")]
    return found


def expected(killed: Killed, whole: Sequence[bool]) -> list[Counter[Any]]:
    """The published row and those of the records that are whole."""
    rows = [row for row, is_whole in zip(killed.rows, whole, strict=True) if is_whole]
    artifacts = [("a0", "0", "", "k0", 0)]
    names = ("artifact_id", "item_id", "text", "request_key", "output_tokens")
    artifacts += [tuple(row[n] for n in names) for table, row in rows if table == "artifacts"]
    items = [("0", "a0")]
    items += [(row["item_id"], row["artifact_id"]) for table, row in rows if table == "run_items"]
    failures = [(row["item_id"], row["code"], row["message"]) for t, row in rows if t == "failures"]
    return [Counter(artifacts), Counter(items), Counter(failures)]


def _lengths(killed: Killed) -> list[int]:
    """Every length in a long run; else those at the ends of records, and some between."""
    if LONG:
        return list(range(len(killed.data) + 1))
    ends = [end for _, end in killed.spans[3:7]]
    near = {0, 3, len(MAGIC), *ends, *(end - 1 for end in ends), *(end + 5 for end in ends[:2])}
    return sorted(near)


@pytest.mark.rest
def test_a_night_cut_off_anywhere_keeps_its_whole_records(killed: Killed) -> None:
    for length in _lengths(killed):
        with fresh_folder(killed.folder) as folder:
            found = opened(killed, folder, killed.data[:length])
        assert found == expected(killed, [end <= length for _, end in killed.spans]), length


_PLACE = st.floats(0, 1, exclude_max=True)
_NOISE = st.one_of(
    st.binary(min_size=1, max_size=40),
    st.sampled_from(
        [b"\xf5rec", b"\xf5rec" + b"\xff" * 8, MAGIC, b"\0" * 4096, b'["artifacts",{}]']
    ),
)
_DAMAGES = st.lists(
    st.tuples(st.sampled_from(["flip", "insert", "delete"]), _PLACE, st.integers(1, 60), _NOISE),
    min_size=1,
    max_size=3,
)


def _damaged(killed: Killed, damages: Any) -> tuple[bytes, list[bool]]:
    """The segment after the damages, and which of its records (no two are alike) it still holds."""
    data = killed.data
    for how, place, size, noise in damages:
        begin = int(place * len(data))
        end = begin if how == "insert" else begin + (1 if how == "flip" else size)
        put = {"flip": bytes(b ^ (1 << size % 8) for b in data[begin:end]), "insert": noise}
        data = data[:begin] + put.get(how, b"") + data[end:]
    return data, [killed.data[begin:end] in data for begin, end in killed.spans]


@given(damages=_DAMAGES)
@examples(150)
def test_a_damaged_segment_reads_as_its_whole_records(killed: Killed, damages: Any) -> None:
    data, whole = _damaged(killed, damages)
    with fresh_folder() as folder:
        path = folder / killed.segment
        path.write_bytes(data)
        found = [(table, dict(row)) for table, row in read_segment(path).records]
    assert found == [row for row, is_whole in zip(killed.rows, whole, strict=True) if is_whole]


@pytest.mark.rest
@given(damages=_DAMAGES)
@examples(8)
def test_a_damaged_night_keeps_its_whole_records(killed: Killed, damages: Any) -> None:
    data, whole = _damaged(killed, damages)
    with fresh_folder(killed.folder) as folder:
        assert opened(killed, folder, data) == expected(killed, whole)


_NAMES = (
    *("foo.seg", "00000009-xyz.seg", ".seg", "-.seg", "\u0664-x.seg", "notes.txt", "00000001.seg"),
    *("new.duckdb", "copy.duckdb", "copy.duckdb.wal", "answers.json", "answers.jsonl", "spill"),
    *("status.json", "lock", "answers.json.1.tmp", "99999999999999999999-a.seg", "a b.seg"),
)
_FORMS = st.one_of(
    st.sampled_from([b"", MAGIC, b"{}", b"[]", b'{"length": -1}', b'{"length": 1e99}', b"\xff"]),
    st.binary(max_size=80),
    st.sampled_from(["folder", "link to itself", "link to nothing"]),
)


def _put(path: Path, form: bytes | str) -> None:
    if path.is_dir():
        return
    path.unlink(missing_ok=True)
    if isinstance(form, bytes):
        path.write_bytes(form)
    elif form == "folder":
        path.mkdir()
    else:
        os.symlink(path if form == "link to itself" else path.with_name("nowhere"), path)


@pytest.mark.rest
@given(files=st.dictionaries(st.sampled_from(_NAMES), _FORMS, min_size=1, max_size=3))
@examples(10)
def test_alien_files_in_the_journal_do_no_harm(killed: Killed, files: Any) -> None:
    """The store opens with all that is whole, or says what is in its way."""
    with fresh_folder(killed.folder) as folder:
        for name, form in files.items():
            _put(journal_folder(folder / STORE) / name, form)
        with within(SECONDS):
            error = _next_night(folder / STORE)
        if error is not None:
            assert any(name in error.message for name in files)
            return
        with duckdb.connect(str(folder / STORE), read_only=True) as connection:
            found = connection.execute("SELECT artifact_id FROM artifacts ORDER BY 1").fetchall()
        assert found == [(f"a{number}",) for number in range(NUM_ROWS)]


def _next_night(path: Path) -> StoreError | None:
    """A run over the store; the error where it cannot be, whose sentences are checked."""
    try:
        store = Store.open(path)
        store.begin_run({"run_id": "r2", "name": "next"})
        store.end_run({"status": "completed"})
        store.close()
    except StoreError as error:
        check_sentences(error)
        return error
    return None
