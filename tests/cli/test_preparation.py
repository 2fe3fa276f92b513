"""`doctor --prepare`: a machine is ready for a model before its first run."""

import json
import subprocess
import sys

import pytest


@pytest.mark.rest
def test_what_is_prepared_is_not_prepared_again() -> None:
    command = [sys.executable, "-m", "thothy_batch", "doctor", "--prepare", "--json"]
    for _ in range(2):
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert found["model"] == "embedded"
    assert found["num_compiled"] == 0
