"""The origin of figures."""

import os
import platform
import shutil
import subprocess
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_PACKAGES = ("torch", "triton", "transformers", "numpy", "pytest")


def of_device(*, is_dry_run: bool) -> dict[str, object]:
    """The origin of figures from a device, or from the CPU in a dry run."""
    import torch  # late: benchmarks of plans do without

    has_device = torch.cuda.is_available() and not is_dry_run
    versions = {name: _version(name) for name in _PACKAGES}
    return {
        "device": torch.cuda.get_device_name() if has_device else "cpu",
        "commit": short_commit(),
        "versions": {"python": platform.python_version(), "cuda": torch.version.cuda, **versions},
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def short_commit() -> str:
    """The commit of the checkout that holds these benchmarks; "" if it is not known.

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
