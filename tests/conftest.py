"""Fixtures of the whole suite: the shared material, and a wall against the network."""

import os
import re
import signal
import socket
import tempfile
import time
from pathlib import Path
from typing import Any, NoReturn

import pytest
from virtual_clock import ShiftedClock, VirtualClock

ROOT = Path(__file__).resolve().parents[1]
_NUM_LEFT = pytest.StashKey[int]()
_CACHE = tempfile.TemporaryDirectory(prefix="thothy-tests-", ignore_cleanup_errors=True)


def pytest_configure(config: pytest.Config) -> None:
    """Undo the ignoring of Ctrl-C and SIGHUP, which every process of the tests would inherit.

    What tests measure of this machine is kept for them alone. Tests see no GPU, and Triton's
    kernels are interpreted, unless told otherwise: `make gpu` runs them on a device.
    """
    if not _asks_for_gpu(config.option.markexpr):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.environ["XDG_CACHE_HOME"] = _CACHE.name
    os.environ.setdefault("TRITON_INTERPRET", "1")
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:  # under nohup
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave all cases but n of a test marked `few(n)` to make test-rest; n are spread evenly.

    The choice depends on the parameters alone, so that every worker makes the same.
    """
    cases: dict[str, list[pytest.Function]] = {}
    for item in items:
        if item.get_closest_marker("few") and isinstance(item, pytest.Function):
            cases.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for group in cases.values():
        mark = group[0].get_closest_marker("few")
        assert mark is not None
        group.sort(key=lambda item: tuple(item.callspec.indices.values()))
        step = max(1, len(group) // mark.args[0])
        kept = group[::step][: mark.args[0]]
        for item in group:
            if item not in kept:
                item.add_marker(pytest.mark.rest)


def pytest_deselected(items: list[pytest.Item]) -> None:
    """Counts the tests that `-m` left out; in a worker, for the process that collects nothing."""
    if items:
        config = items[0].config
        config.stash[_NUM_LEFT] = config.stash.get(_NUM_LEFT, 0) + len(items)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["num_left"] = session.config.stash.get(_NUM_LEFT, 0)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Every worker collects all tests, and so leaves the same ones."""
    if left := getattr(node, "workeroutput", {}).get("num_left", 0):
        node.config.stash[_NUM_LEFT] = left


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if (left := config.stash.get(_NUM_LEFT, 0)) and config.option.markexpr == "not rest":
        terminalreporter.line(f"{left:,} tests are left to make test-rest")


def _asks_for_gpu(markers: str) -> bool:
    """By `-m gpu`, or as tests/bench/gpu.sh does, which sets THOTHY_GPU_DRY_RUN to 0 or 1."""
    if os.environ.get("THOTHY_GPU_TESTS") == "1" or "THOTHY_GPU_DRY_RUN" in os.environ:
        return True
    return re.search(r"(?<!not )\bgpu\b", markers) is not None


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real data beside the checkout; a test that needs it skips without it."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("the shared data folder is not beside the checkout")
    return folder


@pytest.fixture
def virtual_clock(monkeypatch: pytest.MonkeyPatch) -> VirtualClock:
    """The clock of this process, for all that reads `time.monotonic` or `time.time` and calls
    `time.sleep`.

    Only sleeping takes time: the machine's own speed is nothing to a test.
    """
    clock = VirtualClock()
    monkeypatch.setattr(time, "monotonic", clock.monotonic)
    monkeypatch.setattr(time, "time", clock.time)
    monkeypatch.setattr(time, "sleep", clock.sleep)
    return clock


@pytest.fixture
def shifted_clock(monkeypatch: pytest.MonkeyPatch) -> ShiftedClock:
    """The clock of this process; the test may let hours pass."""
    clock = ShiftedClock()
    monkeypatch.setattr(time, "monotonic", clock.monotonic)
    monkeypatch.setattr(time, "time", clock.time)
    return clock


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests connect to nothing but local sockets."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: object) -> object:
        if self.family == socket.AF_UNIX:
            return connect(self, address)  # type: ignore[arg-type]
        return _refuse(address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


def _refuse(address: object) -> NoReturn:
    raise OSError(f"tests do not use the network (tried {address})")
