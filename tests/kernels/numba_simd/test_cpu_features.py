"""bfloat16 attention with each instruction level of this processor, in a process each.

The kernels choose instructions at import (`numba_simd.cpu_features`), so THOTHY_CPU_ISA tests older
processors. A missing level falls to the next lower one.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from attention_oracle import Case, bound_of

from thothy_kernels.numba_simd import cpu_features

FOLDER = Path(__file__).resolve().parent
# H, K, D: heads of real models; a D that pairs of vectors do not divide; a group above a tile.
SHAPES = [(4, 2, 128), (8, 2, 64), (2, 2, 96), (4, 1, 80), (3, 1, 256), (24, 1, 64)]
# (context, queries): decoding, drafts, chunks and whole prompts, around pieces, blocks and spans.
LENS = [(1, 1), (15, 1), (17, 17), (255, 1), (257, 8), (300, 70), (530, 1), (31, 3), (513, 2)]
LEVELS = ("base", "avx512_bf16", "amx")


def worst_error() -> float:
    """Worst error as a share of its bound, over all shapes, windows, softcaps and block sizes."""
    worst = 0.0
    for number, shape in enumerate(SHAPES):
        for window, softcap, block_size in ((None, 0.0, 16), (100, 0.0, 32), (None, 5.0, 48)):
            case = Case(
                LENS,
                shape=shape,
                window=window,
                block_size=block_size,
                dtype=torch.bfloat16,
                stride=2,
                seed=number,
            )
            result = case.run("cpu", softcap=softcap).double()
            assert result.isfinite().all(), (shape, window, softcap, block_size)
            exact = case.oracle(softcap)
            error = (result - exact).abs()
            worst = max(worst, float((error / bound_of(case, softcap, exact)).max()))
    return worst


@pytest.mark.rest
@pytest.mark.parametrize("isa", LEVELS)
def test_attention_is_exact_with_the_instructions_of(
    isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("THOTHY_CPU_ISA", raising=False)
    paths = [str(FOLDER.parents[1] / "oracles"), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "THOTHY_CPU_ISA": isa,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }
    done = subprocess.run(
        [sys.executable, __file__], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    # A missing level falls to the next lower one.
    assert found["level"] == min(isa, cpu_features._level(), key=LEVELS.index)
    assert found["worst"] <= 1


@pytest.mark.rest
def test_an_unknown_level_is_refused() -> None:
    environment = {**os.environ, "THOTHY_CPU_ISA": "sse"}
    code = "import thothy_kernels.numba_simd.cpu_features"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.returncode
    assert "use one of base, avx512_bf16, amx" in done.stderr


if __name__ == "__main__":
    print(json.dumps({"level": cpu_features.level, "worst": worst_error()}))
