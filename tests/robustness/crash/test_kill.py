"""Three kills of a short night; `make faults` does twenty of the whole one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.rest
@pytest.mark.timeout(600)
def test_kill_nine_loses_nothing_and_repeats_nothing(tmp_path: Path) -> None:
    script = Path(__file__).parent / "campaign.py"
    done = subprocess.run(
        [sys.executable, str(script), "--kills", "3", "--short", "--seed", "1"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout.splitlines()[-1])
    assert len(report["kills"]) == 3
    assert report["artifacts"] > 0
