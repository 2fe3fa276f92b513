"""Kernels are compiled early: a GPU that has computed one run compiles nothing in later ones.

Triton compiles a kernel again where a number is 1, a multiple of 16 or beyond 32 bits: numbers that
vary from step to step must not be among those.
"""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

# What an engine computes before it is ready leaves out copies of blocks, prompts of penalised
# requests (record_kernel), and groups of fewer rows in steps that mix prompts with decoding.
IN_FIRST_RUN = {"copy_kernel", "decode_kernel", "merge_kernel", "record_kernel"}
# Layers with a window and without, grouped and not; one number that is specialised triples them.
MOST_WAYS = 4


@pytest.mark.rest
@pytest.mark.parametrize("family", ["qwen3", "gemma2"])
def test_nothing_is_compiled_after_the_first_run(family: str) -> None:
    script = Path(__file__).with_name("specialised_kernels.py")
    environment = os.environ | {"TRITON_INTERPRET": "0", "TRITON_DEFAULT_FP_FUSION": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, str(script), family], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {"decode_kernel", "prefill_kernel", "winner_kernel"} <= set(found["start"])
    assert max(Counter(found["start"]).values()) <= MOST_WAYS
    assert set(found["run-0"]) <= IN_FIRST_RUN
    assert found["run-1"] == found["run-2"] == []
    assert found["num_launches"] > 300
