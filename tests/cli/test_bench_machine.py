"""Machine figures of a benchmark; tests see a GPU only where they request one."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest

from thothy_batch.bench import machine

CONFTEST = Path(__file__).resolve().parents[1] / "conftest.py"
TRIED = """
import os
import pytest

print("sees", os.environ["CUDA_VISIBLE_DEVICES"])

def test_it():
    pass

@pytest.mark.gpu
def test_on_a_gpu():
    pass
"""


def test_the_commit_is_read_from_a_checkout(tmp_path: Path) -> None:
    assert machine.commit(tmp_path) is None
    git = tmp_path / ".git"
    (git / "refs/heads").mkdir(parents=True)
    (git / "HEAD").write_text("ref: refs/heads/main\n")
    (git / "packed-refs").write_text("# pack-refs\naaa refs/heads/other\nbbb refs/heads/main\n")
    assert machine.commit(tmp_path) == "bbb"
    (git / "refs/heads/main").write_text("ccc\n")
    assert machine.commit(tmp_path) == "ccc"
    (tmp_path / "beside").mkdir()
    (tmp_path / "beside/.git").write_text(f"gitdir: {git}/worktrees/w\n")
    (git / "worktrees/w").mkdir(parents=True)
    (git / "worktrees/w/commondir").write_text("../..\n")
    (git / "worktrees/w/HEAD").write_text("ref: refs/heads/main\n")
    assert machine.commit(tmp_path / "beside") == "ccc"
    (git / "HEAD").write_text("ddd\n")
    assert machine.commit(tmp_path) == "ddd"


def replies(
    percentages: list[int | None],
) -> tuple[Callable[[], int | None], threading.Event]:
    """A driver that returns these values, the last first, and an event set after all of them."""
    all_given = threading.Event()

    def ask() -> int | None:
        if percentages:
            return percentages.pop()
        all_given.set()
        return None

    return ask, all_given


def test_a_device_is_as_busy_as_its_driver_says() -> None:
    percentages: list[int | None] = [60, 60, 100, 50, None, 0, 50, 100]
    ask, all_given = replies(percentages)

    with machine.BusyMeter("cuda", ask=ask, every_s=0.001) as meter:
        assert all_given.wait(30)
    assert meter.fraction == pytest.approx(0.6)


def test_a_device_with_too_few_samples_has_no_busy_share() -> None:
    percentages: list[int | None] = [100, 100]
    ask, all_given = replies(percentages)

    with machine.BusyMeter("cpu") as idle:
        pass
    with machine.BusyMeter("cuda", ask=ask, every_s=0.001) as meter:
        assert all_given.wait(30)
    assert (idle.fraction, meter.fraction) == (None, None)


def test_versions_are_reported_without_triton(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    assert set(machine.versions_of("cuda")) == {"python", "cuda"}
    assert set(machine.versions_of("cpu")) == {"python"}


def test_peak_memory_is_that_of_the_time_since() -> None:
    before = machine.PeakMemory("cpu").num_bytes()
    memory = machine.PeakMemory("cpu")
    data = bytearray(64 << 20)
    data[::4096] = b"x" * len(data[::4096])
    assert memory.num_bytes() > before + len(data) // 2


@pytest.mark.rest
@pytest.mark.parametrize(
    ("options", "environment", "seen"),
    [
        ([], {}, ""),
        (["-m", "not gpu and not rest"], {}, ""),
        (["-m", "gpu"], {}, "3"),
        ([], {"THOTHY_GPU_TESTS": "1"}, "3"),
        ([], {"THOTHY_GPU_DRY_RUN": "0"}, "3"),
    ],
)
def test_tests_see_a_gpu_only_where_they_ask_for_one(
    tmp_path: Path, options: list[str], environment: dict[str, str], seen: str
) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST.read_text(encoding="utf-8"))
    oracles = CONFTEST.parent / "oracles"
    ini = f"[pytest]\npythonpath = {oracles}\nmarkers =\n  gpu\n  rest\n"
    (tmp_path / "pytest.ini").write_text(ini)
    (tmp_path / "test_it.py").write_text(TRIED)
    asked = {name: value for name, value in os.environ.items() if "THOTHY_GPU" not in name}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", *options],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=asked | {"CUDA_VISIBLE_DEVICES": "3"} | environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"sees {seen}" in done.stdout.splitlines()
