"""A few disturbed nights; `make faults` does 250. And what an armed fault does."""

import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest

from thothy_batch.testing import faults


def arm(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(faults, "_armed", faults._parse(text))


@pytest.mark.rest
@pytest.mark.timeout(600)
def test_disturbed_nights_end_as_undisturbed(tmp_path: Path) -> None:
    script = Path(__file__).parent / "points.py"
    done = subprocess.run(
        [sys.executable, str(script), "--nights", "6", "--seed", "3"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["runs"] >= 12
    assert report["ends"]["fired"] > 0


def test_a_fault_strikes_once_at_its_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    arm(monkeypatch, "a:2=full,b=error")
    faults.at("a")
    with pytest.raises(OSError, match="on purpose: a") as caught:
        faults.at("a")
    assert caught.value.errno == errno.ENOSPC
    faults.at("a")
    with pytest.raises(OSError, match="on purpose: b"):
        faults.cut("b", memoryview(b"1234"))
    assert faults.cut("b", memoryview(b"1234")) == b"1234"
    faults.at("never armed")


def test_processes_that_share_marks_fail_once_together(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("THOTHY_FAULT_MARKS", str(tmp_path))
    for process in range(2):
        arm(monkeypatch, "a=error")
        if process == 0:
            with pytest.raises(OSError, match="on purpose"):
                faults.at("a")
        else:
            faults.at("a")


def test_an_unknown_action_is_refused() -> None:
    with pytest.raises(ValueError, match="'a=explode': one of kill"):
        faults._parse("a=explode")
