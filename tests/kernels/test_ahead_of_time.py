"""Every launch variant compiles for the target devices, within their resources."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SHARED_BYTES = {"sm_80": 163 << 10, "sm_90": 227 << 10}


@pytest.mark.rest
def test_all_variants_compile_within_the_devices_limits(tmp_path: Path) -> None:
    script = Path(__file__).with_name("ahead_of_time.py")
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, script], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert {"paged_attention", "sample"} <= {record["op"] for record in records}
    for record in records:
        assert record["registers"] <= 255, record
        assert record["shared_bytes"] <= SHARED_BYTES[record["target"]], record
        assert record["spilled_bytes"] == 0, record
