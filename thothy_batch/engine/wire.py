"""Messages between a run and its engine process: length-prefixed pickles over a socket pair.

Both ends are the same program on the same machine; nothing else can connect.
"""

import pickle
import socket
import struct
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

_LENGTH = struct.Struct("<Q")


class Tag(StrEnum):
    """What a message is. The first four go to the engine, the others come from it."""

    START = "start"  # EngineSpec
    SUBMIT = "submit"  # list[Request]
    STOP_ADMITTING = "stop_admitting"
    CLOSE = "close"
    READY = "ready"  # EngineInfo
    UPDATE = "update"  # EngineUpdate
    FAILED = "failed"  # an exception


@dataclass(frozen=True, slots=True)
class Message:
    tag: Tag
    body: Any = None


def send(sock: socket.socket, message: Message) -> None:
    """Blocks until the other side's kernel buffer has it. OSError when that side is gone."""
    data = pickle.dumps((message.tag.value, message.body), protocol=pickle.HIGHEST_PROTOCOL)
    sock.sendall(_LENGTH.pack(len(data)) + data)


def receive(sock: socket.socket) -> Message:
    """The next message. EOFError when the other side is gone."""
    (length,) = _LENGTH.unpack(_exactly(sock, _LENGTH.size))
    tag, body = pickle.loads(_exactly(sock, length))
    return Message(Tag(tag), body)


def _exactly(sock: socket.socket, size: int) -> bytes:
    data = bytearray(size)
    view = memoryview(data)
    while view:
        try:
            count = sock.recv_into(view)
        except ConnectionError as error:
            raise EOFError("the other side of the engine's pipe is gone") from error
        if not count:
            raise EOFError("the other side of the engine's pipe is gone")
        view = view[count:]
    return bytes(data)
