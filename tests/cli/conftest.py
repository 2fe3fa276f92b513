"""Imports of helpers beside the tests; the environment is restored after each test."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
pytest.register_assert_rewrite("bench_cases")


@pytest.fixture(autouse=True)
def _as_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restores what a command sets in its own process."""
    monkeypatch.setenv("GOMP_SPINCOUNT", "2000")
