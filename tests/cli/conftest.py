"""Imports of helpers beside the tests; the environment is restored after each test."""

import sys
from pathlib import Path

import pytest

from thothy_batch.engine.hardware.environment import COMPUTE_ENVIRONMENT

sys.path.insert(0, str(Path(__file__).parent))
pytest.register_assert_rewrite("bench_cases")


@pytest.fixture(autouse=True)
def _as_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings that a command makes in its own process are taken back."""
    for name, value in COMPUTE_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
