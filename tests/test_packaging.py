"""The wheel holds what the repository holds, and works from any folder."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Folder in the repository -> folder in the wheel.
PLACES = {
    "thothy_batch": "thothy_batch",
    "kernels": "thothy_kernels",
    "jobs": "thothy_batch/_jobs",
    "sample_data": "thothy_batch/_sample_data",
}
DATA = (".py", ".yaml", ".parquet", ".json", ".safetensors", ".md", ".j2", ".css")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of what git tracks: the working tree stays clean."""
    folder = tmp_path_factory.mktemp("wheel")
    archive = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    source = folder / "source"
    for name in filter(None, archive.stdout.decode().split("\0")):
        if (ROOT / name).exists():
            target = source / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    done = subprocess.run([*command, "-q", "-w", folder, source], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return next(folder.glob("*.whl"))


@pytest.mark.slow
def test_the_wheel_holds_every_tracked_file_of_the_packages(wheel: Path) -> None:
    tracked = subprocess.run(
        ["git", "ls-files", *PLACES], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\n")
    expected = set()
    for name in filter(None, tracked):
        top, _, rest = name.partition("/")
        if (ROOT / name).exists() and name.endswith(DATA):
            expected.add(f"{PLACES[top]}/{rest}")
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert packed == expected


@pytest.mark.slow
def test_an_unpacked_wheel_finds_its_kinds_and_its_model(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    folders = [str(tmp_path / "site"), *site_folders()]
    code = (
        f"import sys; sys.path[:0] = {folders!r}\n"
        "from thothy_batch.resources import data_path\n"
        "import thothy_kernels, thothy_batch.records as r\n"
        "import thothy_batch.model.checkpoint.locate as l\n"
        "print(thothy_kernels.__file__, data_path('jobs'), l.locate_model(r.ModelSpec()).directory)"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert str(ROOT) not in done.stdout
    assert done.stdout.count(str(tmp_path / "site")) == 3


def site_folders() -> list[str]:
    """The environment's packages, without the .pth files that point to the checkout."""
    return [path for path in sys.path if path.endswith("site-packages")]
