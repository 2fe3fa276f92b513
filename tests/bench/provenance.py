"""Where figures come from."""

import os
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def short_commit() -> str:
    """Of the checkout that these benchmarks stand in; "" where it is not known.

    THOTHY_COMMIT, or gpu_pack/commit, says it where the tree has travelled without its history.
    """
    if told := os.environ.get("THOTHY_COMMIT"):
        return told
    packed = ROOT / "gpu_pack" / "commit"
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        return packed.read_text().strip() if packed.exists() else ""
    command = ["git", "rev-parse", "--short", "HEAD"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip()
