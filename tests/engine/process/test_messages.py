"""Deadlines survive the way between processes whose clocks have nothing in common."""

import pickle
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from engine_driver import drain

from thothy_batch.engine.process.channel import Channel
from thothy_batch.engine.process.messages import Submit
from thothy_batch.engine.start import start_child
from thothy_batch.records import EngineSpec, ModelSpec, Request, Sampling

FAR = 1e7  # seconds between the origins of two clocks


def request(request_id: int, ends_at: float | None = None) -> Request:
    return Request(request_id, "", (1, 2), Sampling(), ends_at=ends_at)


def test_seconds_left_are_counted_from_the_arrival_by_the_receivers_clock() -> None:
    sent = Submit.of([request(1, 1060.0), request(2), request(3, 990.0)], now=1000.0)
    received = pickle.loads(pickle.dumps(sent))
    assert all(each.ends_at is None for each in received.requests)
    ends = [each.ends_at for each in received.with_deadlines(arrived_at=5.0)]
    assert ends == [65.0, None, -5.0]


def test_a_message_that_waits_to_be_read_gains_no_time() -> None:
    """The arrival counts, not the moment in which a busy engine looks at the message."""
    clock = iter([100.0])
    ours, theirs = socket.socketpair()
    sender, receiver = Channel(ours), Channel(theirs, clock=lambda: next(clock))
    try:
        sender.send(Submit.of([request(1, 60.0)], now=0.0))
        message = receiver.receive(10.0)
        assert isinstance(message, Submit)
        (received,) = message.with_deadlines(receiver.arrived_at)
        assert received.ends_at == 160.0
    finally:
        sender.close()
        receiver.close()


def test_what_was_flushed_is_written() -> None:
    """Also where the writer finishes an earlier message just as another one is queued."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    sender = Channel(ours)
    try:
        for number in range(500):
            sender.send(number)
            sender.send(number)
            sender.flush(10.0)
            assert not sender.has_backlog
            for _ in range(2):
                (length,) = struct.unpack("!Q", theirs.recv(8))
                assert pickle.loads(theirs.recv(length)) == number
    finally:
        sender.close()
        theirs.close()


@pytest.fixture(params=[FAR, -FAR])
def child_elsewhere(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Any]:
    """A child whose monotonic clock has another origin than ours."""
    (tmp_path / "sitecustomize.py").write_text(
        f"import time\nours = time.monotonic\ntime.monotonic = lambda: ours() + {request.param}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)  # which the child is given as PYTHONPATH
    log = tmp_path / "engine.log"
    engine = start_child(EngineSpec(model=ModelSpec(id="builtin:fake?step_ms=5")), log_path=log)
    yield engine
    engine.close()


def test_a_child_on_another_clock_keeps_the_deadlines(
    child_elsewhere: Any, request_of: Any
) -> None:
    now = time.monotonic()
    child_elsewhere.submit(
        [
            request_of(0, b"in time", 4, ignore_eos=True, ends_at=now + 60),
            request_of(1, b"too late", 4, ignore_eos=True, ends_at=now - 1),
        ]
    )
    update = drain(child_elsewhere)
    assert [each.request_id for each in update.results] == [0]
    assert update.expired == [1]
