"""The journal: rows appended to segments, made durable in groups, until the database has them."""

import os
import time
import uuid
from pathlib import Path

from thothy_batch.errors import StoreError
from thothy_batch.process.atomic_write import sync_folder
from thothy_batch.store.files import storage_error
from thothy_batch.store.journal.segment import (
    MAGIC,
    SUFFIX,
    Row,
    SegmentContent,
    cut_tail,
    encode_record,
    read_segment,
    segment_id,
    segment_paths,
)
from thothy_batch.testing import faults

# A segment is read back whole to be merged; this bounds that memory when readers block all night.
MAX_SEGMENT_BYTES = 32 * 2**20
# Rows wait in memory for the next group commit; more than this is committed at once.
_MAX_BUFFERED_BYTES = 4 * 2**20


class Journal:
    """Appends rows. A row is safe once `commit` returned; a failed commit keeps it for later."""

    def __init__(self, folder: Path) -> None:
        """Makes the folder. Raises StoreError where it cannot be made or written."""
        self.folder = folder
        self._path: Path | None = None
        self._name = ""
        self._fd = -1
        self._end = 0  # durable bytes of the open segment
        self._buffer: list[bytes] = []
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
        """Starts a segment now: while one exists, other commands know that work is unpublished."""
        if self._path is not None:
            return
        heads = [path.name.split("-")[0] for path in segment_paths(self.folder)]
        numbers = [int(head) for head in heads if head.isdecimal()]  # the others are not ours
        name = f"{max(numbers, default=0) + 1:08d}-{uuid.uuid4().hex[:16]}{SUFFIX}"
        path = self.folder / name
        try:
            self._fd = _create(path)
        except OSError as error:
            path.unlink(missing_ok=True)
            raise storage_error(error, "cannot write the journal", path) from error
        self._path, self._name, self._end = path, segment_id(path), len(MAGIC)

    def append(self, table: str, row: Row) -> None:
        """Takes a row of journal cells; durable after the next `commit`."""
        self.open_segment()
        record = encode_record(self._name, table, row)
        if self.oldest_unsynced is None:
            self.oldest_unsynced = time.monotonic()
        self._buffer.append(record)
        self._buffered_bytes += len(record)
        if self._buffered_bytes >= _MAX_BUFFERED_BYTES:
            self.commit()

    def commit(self) -> None:
        """Writes and syncs what was appended. Raises StoreError; the rows then stay buffered."""
        if not self._buffer:
            return
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
        self._buffer.clear()
        self._buffered_bytes = 0
        self.oldest_unsynced = None
        if self._end >= MAX_SEGMENT_BYTES:
            self.rotate()

    def _check_name(self) -> None:
        """A file without a name ends with this process, and every row in it."""
        if os.fstat(self._fd).st_nlink == 0:
            raise StoreError(
                f"the journal {self._path} was deleted while the run was writing it",
                hint="leave the folder alone during a run; run again, the next run does the rest",
            )

    def rotate(self, *, last: bool = False) -> None:
        """Closes the open segment if it holds rows and starts the next one (not when `last`)."""
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
        """Segments that take no more rows, oldest first."""
        return [path for path in segment_paths(self.folder) if path != self._path]

    def recover(self) -> list[tuple[Path, SegmentContent]]:
        """Cuts unfinished writes from the segments of runs that died; what is in each of them."""
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
        """Commits and closes. The segment stays if it holds rows."""
        try:
            self.rotate(last=True)
        finally:
            if self._fd >= 0:
                os.close(self._fd)
                self._path, self._fd = None, -1


def _create(path: Path) -> int:
    """An empty segment whose content and name are on the disk; its descriptor."""
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
    """Writes all of `data` at `offset`; a retry after a failure overwrites the torn part."""
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, faults.cut("journal.write", view), offset)
        view, offset = view[written:], offset + written
