"""Fixtures of tests that need a CUDA device; THOTHY_GPU_DRY_RUN=1 tries them without one.

Helpers and oracles are those of the operations' own tests, which compute in the interpreter.
"""

import os
import sys
from pathlib import Path

import pytest
from device_place import CAN_RUN

_KERNELS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(_KERNELS), *(str(_KERNELS / name) for name in ("sample", "paged_attention"))]
pytest.register_assert_rewrite(
    "test_gated_activation", "test_rms_norm", "test_rope_and_write", "test_triton_impl"
)

_broken = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> object:
    if call.excinfo is not None and "CUDA error" in str(call.excinfo.value):
        item.config.stash[_broken] = True
    return (yield)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """A kernel that reads where nothing is makes every later call in its process fail: one of
    several workers (pytest-xdist) ends there, and another takes its place."""
    if "PYTEST_XDIST_WORKER" in os.environ and item.config.stash.get(_broken, False):
        os._exit(1)


@pytest.fixture(autouse=True)
def _needs_a_device() -> None:
    if not CAN_RUN:
        pytest.skip("no CUDA device")
