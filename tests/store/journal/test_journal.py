"""The journal: what was committed is read back, whatever happened to the end of the file."""

import errno
import os
import random
from pathlib import Path

import pytest

from thothy_batch.errors import StoreError
from thothy_batch.store.journal import journal as journal_module
from thothy_batch.store.journal.journal import Journal
from thothy_batch.store.journal.segment import MAGIC, cut_tail, read_segment


def _written(folder: Path, num_rows: int) -> tuple[Path, list[int]]:
    """A segment of that many records and where each of them ends."""
    journal = Journal(folder)
    ends = []
    for number in range(num_rows):
        journal.append("artifacts", {"n": number, "text": "é\n\x00" * number})
        journal.commit()
        (path,) = folder.glob("*.seg")
        ends.append(path.stat().st_size)
    journal.close()
    return path, ends


def test_rows_come_back_in_order(tmp_path: Path) -> None:
    path, _ = _written(tmp_path / "j", 5)
    content = read_segment(path)
    assert [row["n"] for _, row in content.records] == list(range(5))
    assert content.records[3][1]["text"] == "é\n\x00" * 3
    assert (content.tail_bytes, content.damaged_bytes) == (0, 0)


def test_truncation_at_every_byte_keeps_exactly_the_whole_records(tmp_path: Path) -> None:
    path, ends = _written(tmp_path / "j", 4)
    data = path.read_bytes()
    for length in range(len(data) + 1):
        path.write_bytes(data[:length])
        content = read_segment(path)
        whole = sum(end <= length for end in ends)
        assert len(content.records) == whole
        if length % 7:
            continue
        cut_tail(path, content)
        again = read_segment(path)
        assert len(again.records) == whole
        assert again.tail_bytes == 0 or length < len(MAGIC)


@pytest.mark.parametrize(
    "tail",
    [b"\0" * 4096, b"\xff" * 33, b"\xf5rec", b"\xf5rec" + b"\0" * 8, os.urandom(500), b"{}"],
    ids=["zeros", "ones", "half a head", "empty record", "noise", "text"],
)
def test_garbage_behind_the_last_record_is_cut(tmp_path: Path, tail: bytes) -> None:
    path, ends = _written(tmp_path / "j", 3)
    path.write_bytes(path.read_bytes() + tail)
    content = read_segment(path)
    assert len(content.records) == 3
    assert content.tail_bytes == len(tail)
    cut_tail(path, content)
    assert path.stat().st_size == ends[-1]


def test_damage_in_the_middle_loses_only_the_damaged_record(tmp_path: Path) -> None:
    path, ends = _written(tmp_path / "j", 5)
    clean = path.read_bytes()
    rng = random.Random(1)
    for _ in range(200):
        data = bytearray(clean)
        place = rng.randrange(ends[1], ends[2])
        data[place] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        content = read_segment(path)
        assert [row["n"] for _, row in content.records] == [0, 1, 3, 4]
        assert content.damaged_bytes == ends[2] - ends[1]


def test_a_record_of_another_segment_is_not_believed(tmp_path: Path) -> None:
    """A crash can leave blocks of a deleted file at the end of a new one."""
    old, _ = _written(tmp_path / "a", 3)
    new, _ = _written(tmp_path / "b", 1)
    new.write_bytes(new.read_bytes() + old.read_bytes())
    assert len(read_segment(new).records) == 1


def test_uncommitted_rows_are_not_in_the_file_and_commit_makes_them_so(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    journal.append("t", {"n": 1})
    (path,) = (tmp_path / "j").glob("*.seg")
    assert path.read_bytes() == MAGIC
    assert journal.oldest_unsynced is not None
    journal.commit()
    assert journal.oldest_unsynced is None
    assert len(read_segment(path).records) == 1


def test_rotation_closes_a_segment_and_keeps_the_order(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    for number in range(12):
        journal.append("t", {"n": number})
        journal.rotate()
    closed = journal.closed_segments()
    assert len(closed) == 12
    assert [read_segment(path).records[0][1]["n"] for path in closed] == list(range(12))
    journal.rotate()  # nothing in the open one: it stays
    assert journal.closed_segments() == closed
    journal.close()
    assert len(list((tmp_path / "j").glob("*.seg"))) == 12


def test_a_long_run_makes_segments_of_bounded_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "MAX_SEGMENT_BYTES", 1000)
    journal = Journal(tmp_path / "j")
    for number in range(50):
        journal.append("t", {"n": number, "text": "x" * 90})
        journal.commit()
    assert all(path.stat().st_size < 1300 for path in journal.closed_segments())
    journal.close()
    records = [r for path in journal.closed_segments() for r in read_segment(path).records]
    assert [row["n"] for _, row in records] == list(range(50))


def test_a_failed_write_keeps_the_rows_and_a_retry_writes_them_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path / "j")
    journal.append("t", {"n": 0})
    journal.commit()
    journal.append("t", {"n": 1, "text": "x" * 100})
    pwrite = os.pwrite

    def half_then_full(fd: int, data: bytes, offset: int) -> int:
        pwrite(fd, data[:40], offset)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", half_then_full)
        with pytest.raises(StoreError, match="No space left") as caught:
            journal.commit()
    assert "free some space" in caught.value.hint
    (path,) = (tmp_path / "j").glob("*.seg")
    assert len(read_segment(path).records) == 1  # the torn one does not count
    journal.commit()
    journal.close()
    content = read_segment(path)
    assert [row["n"] for _, row in content.records] == [0, 1]
    assert (content.tail_bytes, content.damaged_bytes) == (0, 0)


def test_a_last_row_that_has_no_room_is_not_tried_again_on_closing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    journal = Journal(tmp_path / "j")
    monkeypatch.setattr(journal_module, "_write_at", no_room)
    with pytest.raises(StoreError):
        journal.append_last("failures", {"run_id": "r"})
    journal.close()


@pytest.mark.parametrize("is_full", [True, False])
def test_a_row_for_which_no_segment_can_be_made_is_dropped_by_name_or_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_full: bool
) -> None:
    """A disk may be full just when the next segment begins."""

    def no_room(path: Path) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    journal = Journal(tmp_path / "j")
    rows = [("run_items", {"run_id": "r", "item_id": "1"}), ("failures", {"run_id": "r"})]
    with monkeypatch.context() as patch:
        patch.setattr(journal_module, "_create", no_room)
        for row in rows:
            with pytest.raises(StoreError):
                journal.append(*row)
        if is_full:
            assert journal.salvage() == rows
    assert journal.salvage() == []
    journal.close()
    found = [read_segment(path).records for path in (tmp_path / "j").iterdir()]
    assert found == ([] if is_full else [rows])


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "j").write_text("a file")
    with pytest.raises(StoreError, match="journal folder"):
        Journal(tmp_path / "j")


def test_alien_names_in_the_folder_do_not_matter(tmp_path: Path) -> None:
    folder = tmp_path / "j"
    folder.mkdir()
    for name in ("notes.seg", "-.seg", "00000007-else.seg"):
        (folder / name).write_bytes(b"")
    journal = Journal(folder)
    journal.append("t", {"n": 0})
    journal.close()
    assert len(read_segment(next(folder.glob("00000008-*.seg"))).records) == 1
