"""The journal: appends rows to segments and makes them durable in group commits."""

import contextlib
import os
import time
import uuid
from pathlib import Path

from thothy_batch.errors import StoreError
from thothy_batch.process import sync_folder
from thothy_batch.store.files import storage_error
from thothy_batch.store.journal.segment import (
    MAGIC,
    SUFFIX,
    Record,
    Row,
    SegmentContent,
    cut_tail,
    encode_record,
    read_segment,
    segment_id,
    segment_paths,
)
from thothy_batch.testing import faults

# A segment is read back whole for its merge; this bounds that memory while readers block merges.
MAX_SEGMENT_BYTES = 32 * 2**20
# Bytes buffered for the next group commit; beyond this they are committed at once.
_MAX_BUFFERED_BYTES = 4 * 2**20


class Journal:
    """Appends rows. A row is durable once `commit` returned; a failed commit keeps it buffered."""

    def __init__(self, folder: Path) -> None:
        """Create the folder. Raises StoreError if it cannot be created or written."""
        self.folder = folder
        self._path: Path | None = None
        self._name = ""
        self._fd = -1
        self._end = 0  # durable bytes of the open segment
        self._buffered: list[Record] = []
        self._buffer: list[bytes] = []  # the same rows, but for those without a segment so far
        self._buffered_bytes = 0
        self.oldest_unsynced: float | None = None  # time.monotonic() of the first buffered row
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise storage_error(error, "cannot make the journal folder", folder) from error
        if not os.access(folder, os.W_OK | os.X_OK, effective_ids=True):
            raise StoreError(
                f"the journal folder {folder} is not writable",
                hint="give this user the right to write there, or choose another path: --store",
            )

    def open_segment(self) -> None:
        """Start a segment now: its existence tells other commands of unpublished work."""
        if self._path is not None:
            return
        heads = [path.name.split("-")[0] for path in segment_paths(self.folder)]
        numbers = [
            int(head) for head in heads if head.isdecimal()
        ]  # other files belong to other programs
        name = f"{max(numbers, default=0) + 1:08d}-{uuid.uuid4().hex[:16]}{SUFFIX}"
        path = self.folder / name
        try:
            self._fd = _create(path)
        except OSError as error:
            path.unlink(missing_ok=True)
            raise storage_error(error, "cannot write the journal", path) from error
        self._path, self._name, self._end = path, segment_id(path), len(MAGIC)

    def append(self, table: str, row: Row) -> None:
        """Buffer a row of journal cells; durable after the next `commit`.

        Raises StoreError; the row is buffered all the same.
        """
        if self.oldest_unsynced is None:
            self.oldest_unsynced = time.monotonic()
        self._buffered.append((table, row))
        self._encode()
        if self._buffered_bytes >= _MAX_BUFFERED_BYTES:
            self.commit()

    def commit(self) -> None:
        """Write and sync the buffered rows. Raises StoreError; the rows then stay buffered."""
        if not self._buffered:
            return
        self._encode()
        data = b"".join(self._buffer)
        try:
            _write_at(self._fd, data, self._end)
            faults.at("journal.sync")
            os.fdatasync(self._fd)
            faults.at("journal.synced")
            self._check_name()
        except OSError as error:
            assert self._path is not None
            raise storage_error(error, "cannot write the journal", self._path) from error
        self._end += len(data)
        self._forget_buffer()
        if self._end >= MAX_SEGMENT_BYTES:
            self.rotate()

    def salvage(self) -> list[Record]:
        """Make the buffered rows durable; return those that were dropped where that failed.

        After a failure the open segment is left as it was at the last commit.
        """
        try:
            self.commit()
        except StoreError:
            return self._abandon()
        return []

    def append_last(self, table: str, row: Row) -> None:
        """Append a row and make it durable, in a new segment if the open one takes no more.

        Raises StoreError where not even a new segment can be written; the row is then dropped.
        """
        try:
            self.append(table, row)
            self.commit()
        except StoreError:
            self._abandon()
            try:
                self.append(table, row)
                self.commit()
            except StoreError:
                self._abandon()
                raise

    def _abandon(self) -> list[Record]:
        """Drop the buffered rows and leave the open segment; return the rows."""
        dropped = list(self._buffered)
        self._forget_buffer()
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._end)
            os.close(self._fd)
            self._path, self._fd = None, -1
        return dropped

    def _encode(self) -> None:
        """Encode the buffered rows that are not, for the open segment or a new one."""
        self.open_segment()
        for table, row in self._buffered[len(self._buffer) :]:
            record = encode_record(self._name, table, row)
            self._buffer.append(record)
            self._buffered_bytes += len(record)

    def _forget_buffer(self) -> None:
        self._buffer.clear()
        self._buffered.clear()
        self._buffered_bytes = 0
        self.oldest_unsynced = None

    def _check_name(self) -> None:
        """Detect a deleted segment: its rows would be lost when this process ends."""
        if os.fstat(self._fd).st_nlink == 0:
            raise StoreError(
                f"the journal {self._path} was deleted while the run was writing it",
                hint="leave the folder alone during a run; run again, the next run does the rest",
            )

    def rotate(self, *, last: bool = False) -> None:
        """Close the open segment if it holds rows; start the next one unless `last`."""
        self.commit()
        if self._path is None or (self._end == len(MAGIC) and not last):
            return
        faults.at("journal.rotate")
        os.close(self._fd)
        empty, path = self._end == len(MAGIC), self._path
        self._path, self._fd = None, -1
        if not last:
            self.open_segment()
        elif empty:
            path.unlink(missing_ok=True)

    def closed_segments(self) -> list[Path]:
        """Return the segments that take no more rows, oldest first."""
        return [path for path in segment_paths(self.folder) if path != self._path]

    def recover(self) -> list[tuple[Path, SegmentContent]]:
        """Cut unfinished writes from segments of dead runs; return the content of each."""
        found = []
        for path in self.closed_segments():
            try:
                content = read_segment(path)
                cut_tail(path, content)
            except OSError as error:
                raise storage_error(error, "cannot read the journal", path) from error
            found.append((path, content))
        return found

    def close(self) -> None:
        """Commit and close. The segment stays if it holds rows."""
        try:
            self.rotate(last=True)
        finally:
            if self._fd >= 0:
                os.close(self._fd)
                self._path, self._fd = None, -1


def _create(path: Path) -> int:
    """Create an empty segment, durable in content and name; return its descriptor."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        _write_at(fd, MAGIC, 0)
        faults.at("journal.create")
        os.fsync(fd)
        sync_folder(path.parent)
    except OSError:
        os.close(fd)
        raise
    return fd


def _write_at(fd: int, data: bytes, offset: int) -> None:
    """Write all of `data` at `offset`; a retry after a failure overwrites the torn part."""
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, faults.cut("journal.write", view), offset)
        view, offset = view[written:], offset + written
