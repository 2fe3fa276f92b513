"""Where figures come from."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def short_commit() -> str:
    """Of the checkout that these benchmarks stand in; "" where it is none."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip()
