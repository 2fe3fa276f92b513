"""A night of many requests: its plan grows with their number, in work and in memory."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from counted_work import calls_of

BENCH = Path(__file__).resolve().parents[1] / "bench" / "bench_planning.py"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_planning", BENCH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_four_times_the_requests_are_four_times_the_work(bench: ModuleType) -> None:
    """Calls grow no faster than n log n; what numpy does within one is for the benchmark."""
    few, many = bench.made_up(2000), bench.made_up(8000)
    bench.planned(few)  # what is made once
    num_few, num_many = calls_of(lambda: bench.planned(few)), calls_of(lambda: bench.planned(many))
    assert num_few > 2000
    assert num_many <= 4 * 1.2 * num_few  # log 8000 / log 2000 = 1.18


@pytest.mark.rest
def test_200000_requests_are_planned_within_400_mb() -> None:
    """In a process of its own, so that its peak of memory is its own."""
    done = subprocess.run([sys.executable, BENCH], capture_output=True, text=True, check=True)
    figures = json.loads(done.stdout)
    assert figures["keys"] == figures["order"] == figures["groups"] == 200_000
    assert figures["mb"] < 400, figures
