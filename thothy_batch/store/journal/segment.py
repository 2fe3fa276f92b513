"""The format of a journal file: framed records, so that torn or damaged ones are detected.

    file    MAGIC, then records
    record  MARKER, length of the payload (u32), crc32 (u32), payload: JSON [table, row] in UTF-8

The checksum is salted with the file's name, so blocks of an older file that a crash left behind do
not pass. MARKER contains a byte that never occurs in UTF-8, so reading continues after damage.
"""

import json
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from thothy_batch.store.columns import Cell

MAGIC = b"THOTHYJ1"
MARKER = b"\xf5rec"
SUFFIX = ".seg"
_ENCODER = json.JSONEncoder(ensure_ascii=False, check_circular=False, separators=(",", ":"))
_HEAD = struct.Struct("<4sII")

Row = dict[str, Cell]
Record = tuple[str, Row]


@dataclass(frozen=True, slots=True)
class SegmentContent:
    """The valid records of a segment and the rest of the file."""

    records: list[Record]
    good_end: int  # end of the last valid record
    tail_bytes: int  # after it: an unfinished write
    damaged_bytes: int  # between valid records: bytes that the disk lost


def segment_id(path: Path) -> str:
    """Return the id under which a merged segment is recorded in the database."""
    return path.stem


def segment_paths(folder: Path) -> list[Path]:
    """Return all segments of a journal folder, oldest first."""
    return sorted(path for path in folder.glob(f"*{SUFFIX}") if path.is_file())


def encode_record(name: str, table: str, row: Row) -> bytes:
    """Frame one record for the segment of that id."""
    payload = _ENCODER.encode([table, row]).encode()
    return _HEAD.pack(MARKER, len(payload), _checksum(name, payload)) + payload


def read_segment(path: Path) -> SegmentContent:
    """Return every record with a valid checksum, in order. Changes nothing; raises OSError."""
    data = path.read_bytes()
    start = len(MAGIC) if data.startswith(MAGIC) else 0
    good_end, damaged = start, 0
    records: list[Record] = []
    for begin, end, payload in _good_records(data, start, segment_id(path)):
        table, row = json.loads(payload)
        records.append((table, row))
        damaged += begin - good_end
        good_end = end
    return SegmentContent(records, good_end, len(data) - good_end, damaged)


def cut_tail(path: Path, content: SegmentContent) -> None:
    """Remove everything after the last valid record, durably."""
    if content.tail_bytes == 0:
        return
    fd = os.open(path, os.O_RDWR)
    try:
        os.ftruncate(fd, content.good_end)
        os.fsync(fd)
    finally:
        os.close(fd)


def _good_records(data: bytes, start: int, name: str) -> Iterator[tuple[int, int, bytes]]:
    """Yield (begin, end, payload) of each valid record."""
    position = start
    while (begin := data.find(MARKER, position)) >= 0:
        position = begin + len(MARKER)
        body = begin + _HEAD.size
        if body > len(data):
            return
        _, length, checksum = _HEAD.unpack_from(data, begin)
        payload = data[body : body + length]
        if len(payload) == length and _checksum(name, payload) == checksum:
            position = body + length
            yield begin, position, payload


def _checksum(name: str, payload: bytes) -> int:
    return zlib.crc32(payload, zlib.crc32(name.encode() + len(payload).to_bytes(4, "little")))
