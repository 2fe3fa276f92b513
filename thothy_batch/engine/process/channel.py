"""Python objects over a socket between two processes that trust each other.

One thread reads and one writes, so neither side ever waits for the other: `send` only queues, and
what arrives is read at once. A message is its length (8 bytes) and a pickle.
"""

import contextlib
import pickle
import queue
import socket
import struct
import threading
import time
from collections.abc import Callable

_LENGTH = struct.Struct("!Q")


class ChannelClosedError(Exception):
    """The other end was closed, and everything that it sent was received."""


class Channel:
    """One end of the connection. `on_close` is called by the reader thread at the end."""

    def __init__(
        self,
        sock: socket.socket,
        on_close: Callable[[], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sock = sock
        self._on_close = on_close
        self._clock = clock
        # Each with the time of its arrival; None: the other end was closed.
        self._incoming: queue.SimpleQueue[tuple[bytes, float] | None] = queue.SimpleQueue()
        self._outgoing: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._is_idle = threading.Event()
        self._is_idle.set()
        self._queue_lock = threading.Lock()  # `_is_idle` changes with the outgoing queue
        self._ended = False
        self.arrived_at = 0.0  # by `clock`: arrival of the message that `receive` returned last
        for target in (self._read, self._write):
            threading.Thread(target=target, name=f"channel{target.__name__}", daemon=True).start()

    def send(self, message: object) -> None:
        """Queue a message. Never blocks, and does not notice when the other end is closed."""
        data = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
        with self._queue_lock:
            self._is_idle.clear()
            self._outgoing.put(data)

    @property
    def has_backlog(self) -> bool:
        """True while messages are not written yet: the other side reads too slowly."""
        return not self._is_idle.is_set()

    def flush(self, timeout_s: float) -> None:
        """Wait until all is written, or the time is up."""
        self._is_idle.wait(timeout_s)

    def receive(self, timeout_s: float | None) -> object:
        """The next message. Raises queue.Empty after the timeout, ChannelClosedError at the end."""
        if self._ended:
            raise ChannelClosedError
        wait = timeout_s is None or timeout_s > 0
        item = self._incoming.get(wait, timeout_s if wait else None)
        if item is None:
            self._ended = True
            raise ChannelClosedError
        data, self.arrived_at = item
        return pickle.loads(data)  # noqa: S301 - from our own process, over our own socket

    def close(self) -> None:
        """Hang up. Messages that were not written yet are lost."""
        self._outgoing.put(None)
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()

    def _read(self) -> None:
        with contextlib.suppress(OSError, EOFError):
            while True:
                (length,) = _LENGTH.unpack(self._read_exactly(_LENGTH.size))
                data = self._read_exactly(length)
                self._incoming.put((data, self._clock()))
        self._incoming.put(None)
        if self._on_close is not None:
            self._on_close()

    def _read_exactly(self, size: int) -> bytes:
        data = bytearray(size)
        view = memoryview(data)
        while view:
            num_read = self._sock.recv_into(view)
            if not num_read:
                raise EOFError
            view = view[num_read:]
        return bytes(data)

    def _write(self) -> None:
        while (data := self._outgoing.get()) is not None:
            try:
                self._sock.sendall(_LENGTH.pack(len(data)) + data)
            except OSError:
                break  # the reader sees the same end
            with self._queue_lock:
                if self._outgoing.empty():
                    self._is_idle.set()
        self._is_idle.set()
