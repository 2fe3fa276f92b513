"""first_contact: a dry run passes; sections that fail, die or hang are told, and others go on."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "bench"))
from first_contact.runner import PHASES, Result, run_phases  # noqa: E402

# What the product imports and a GPU machine may lack.
ABSENT = ("duckdb", "pydantic", "pytz", "typer")
SECTIONS = {
    "fine": "def checks():\n    yield 'sum', lambda: {'sum': 1 + 1}\n",
    "failing": (
        "def fail():\n    assert 1 + 1 == 3, 'no\\nsum'\n"
        "def checks():\n    yield 'sum', fail\n    yield 'other', lambda: 'seen'\n"
    ),
    "dying": (
        "import os, resource\nresource.setrlimit(resource.RLIMIT_CORE, (0, 0))\n"
        "def checks():\n    yield 'before', lambda: None\n    yield 'abort', os.abort\n"
    ),
    "hanging": "import time\ndef checks():\n    yield 'sleep', lambda: time.sleep(600)\n",
    "empty": "def checks():\n    return iter(())\n",
    "broken": "import nothing_of_that_name\n",
}


@pytest.fixture
def sections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package with sections that need no torch."""
    folder = tmp_path / "odd_sections"
    folder.mkdir()
    for name, text in SECTIONS.items():
        (folder / f"{name}.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT / 'tests' / 'bench'}")
    return folder.name


def outcomes(results: list[Result]) -> dict[object, object]:
    return {result["check"]: result["outcome"] for result in results}


def command_line(*arguments: str, paths: tuple[Path, ...] = ()) -> subprocess.CompletedProcess[str]:
    """gpu_first_contact.sh, as `make gpu-first-contact` runs it."""
    environment = os.environ | {
        "THOTHY_GPU_DRY_RUN": "1",
        "PYTHON": sys.executable,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": ":".join(map(str, paths)),
    }
    script = str(ROOT / "tests" / "bench" / "gpu_first_contact.sh")
    return subprocess.run(
        ["bash", script, *arguments], env=environment, capture_output=True, text=True
    )


@pytest.mark.rest
def test_a_dry_run_passes_without_packages_that_a_gpu_machine_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ABSENT:
        (tmp_path / f"{name}.py").write_text(f"raise ModuleNotFoundError('{name}')\n")
    monkeypatch.setenv("OUT", str(tmp_path / "out"))
    chosen = ("env", "ops", "attention", "graphs")
    done = command_line(*chosen, paths=(tmp_path,))
    assert done.returncode == 0, done.stdout + done.stderr
    *lines, last = done.stdout.splitlines()[1:]  # the first names the interpreter
    document = json.loads(last)
    assert document == json.loads((tmp_path / "out" / "gpu-first-contact.json").read_text())
    assert document["dry_run"]
    assert document["failed"] == []
    assert {check["check"].split(".")[0] for check in document["checks"]} == set(chosen)
    assert sorted(line.split()[1] for line in lines) == sorted(outcomes(document["checks"]))
    assert all(line.startswith("PASS ") for line in lines)


@pytest.mark.rest
def test_a_failure_is_exit_code_1_and_in_the_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "triton.py").write_text("raise ImportError('no CUDA libraries')\n")
    monkeypatch.setenv("OUT", str(tmp_path))
    done = command_line("env", paths=(tmp_path,))
    assert done.returncode == 1, done.stdout + done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["failed"] == ["env.launch"]
    assert "FAIL env.launch" in done.stdout


@pytest.mark.rest
def test_an_unknown_section_is_bad_usage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUT", str(tmp_path))
    done = command_line("opps")
    assert done.returncode == 2
    assert "no section opps" in done.stderr


def test_sections_that_fail_or_die_leave_the_others(
    sections: str, capfd: pytest.CaptureFixture[str]
) -> None:
    phases = [["failing", "dying", "fine"], ["empty", "broken"]]
    results = run_phases(phases, limit_s=60, budget_s=120, package=sections)
    assert outcomes(results) == {
        "failing.sum": "FAIL",
        "failing.other": "PASS",
        "dying.before": "PASS",
        "dying.abort": "FAIL",
        "fine.sum": "PASS",
        "empty.process": "FAIL",
        "broken.setup": "FAIL",
    }
    seen = {result["check"]: result["seen"] for result in results}
    assert seen["failing.sum"] == "AssertionError: no sum [failing.py:2]"
    assert seen["dying.abort"] == "the process died of SIGABRT"
    assert seen["fine.sum"] == {"sum": 2}
    told = capfd.readouterr().out.splitlines()
    assert sorted(line.split()[1] for line in told) == sorted(map(str, seen))


@pytest.mark.rest
def test_a_section_that_hangs_is_cut_off_and_the_next_runs(sections: str) -> None:
    results = run_phases([["hanging"], ["fine"]], limit_s=2, budget_s=60, package=sections)
    assert outcomes(results) == {"hanging.sleep": "FAIL", "fine.sum": "PASS"}
    assert str(results[0]["seen"]).startswith("cut off after")


def test_every_section_of_the_folder_has_a_phase() -> None:
    folder = ROOT / "tests" / "bench" / "first_contact"
    modules = {path.stem for path in folder.glob("*.py") if "def checks()" in path.read_text()}
    assert modules == {name for phase in PHASES for name in phase}
