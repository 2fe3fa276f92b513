"""The project of the runner's tests serves here, too."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

_PATH = Path(__file__).parents[2] / "runner" / "conftest.py"


@pytest.fixture(scope="session")
def fake_project() -> Any:
    """Its class; takes a folder."""
    spec = importlib.util.spec_from_file_location("_fake_project", _PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Project
