"""The wheel holds what the repository holds, and works from any folder."""

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from thothy_batch import __version__

ROOT = Path(__file__).resolve().parents[1]
# Folder in the repository -> folder in the wheel.
PLACES = {
    "thothy_batch": "thothy_batch",
    "kernels": "thothy_kernels",
    "jobs": "thothy_batch/_jobs",
    "sample_data": "thothy_batch/_sample_data",
}
DATA = (".py", ".yaml", ".parquet", ".json", ".safetensors", ".md", ".j2", ".css", ".typed")
CODE = ("thothy_batch", "kernels")


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


@pytest.mark.rest
def test_the_wheel_holds_every_tracked_file_of_the_packages(wheel: Path) -> None:
    tracked = subprocess.run(
        ["git", "ls-files", *PLACES], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\n")
    expected = set()
    for name in filter(None, tracked):
        top, _, rest = name.partition("/")
        if (
            (ROOT / name).exists()
            and name.endswith(DATA)
            and (
                top in CODE or not name.endswith(".py")  # scripts made the data; no run needs them
            )
        ):
            expected.add(f"{PLACES[top]}/{rest}")
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert packed == expected


@pytest.mark.rest
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


def third_party_imports() -> set[str]:
    """Top-level names that the shipped code imports from outside, type checking aside."""
    found = set()
    for folder in CODE:
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    found |= {alias.name.partition(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom):
                    assert node.module
                    found.add(node.module.partition(".")[0])
    return found - sys.stdlib_module_names - {"thothy_batch", "thothy_kernels"}


def test_what_the_code_imports_is_what_a_run_installs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {re.split("[<>=;]", each)[0].strip() for each in project["dependencies"]}
    distributions = packages_distributions()
    imported = {normal(distributions[name][0]) for name in third_party_imports()}
    # duckdb needs pytz to hand a TIMESTAMPTZ to Python, and does not ask for it.
    assert imported | {"pytz"} == set(map(normal, declared))


def normal(name: str) -> str:
    return name.lower().replace("_", "-")


def test_the_version_stands_in_one_place() -> None:
    """Everything else reads it: the wheel, --version, the store."""
    listed = subprocess.run(
        ["git", "grep", "-lF", f'"{__version__}"'], cwd=ROOT, capture_output=True, text=True
    )
    assert listed.stdout.split() == ["thothy_batch/__init__.py"]
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## [{__version__}]" in changes


@pytest.mark.parametrize(
    ("works", "chosen"),
    [
        (("python3.11", "python3.12"), "python3.11"),
        (("python3.12",), "python3.12"),
        ((), ""),
    ],
)
def test_make_takes_the_first_python_that_works(
    tmp_path: Path, works: tuple[str, ...], chosen: str
) -> None:
    """A shim of a version that is not installed is on the path, and ends with 127."""
    for name in ("python3.11", "python3.12"):
        script = tmp_path / name
        script.write_text(f"#!/bin/sh\nexit {0 if name in works else 127}\n")
        script.chmod(0o755)
    done = subprocess.run(
        ["make", "-s", "--eval", "chosen:; @echo '$(PYTHON)'", "chosen"],
        cwd=ROOT,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == chosen, done.stderr


def test_a_machine_without_a_fitting_python_is_told_so(tmp_path: Path) -> None:
    done = subprocess.run(
        ["make", "setup", "PYTHON=/bin/false", f"VENV={tmp_path / 'venv'}"],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "Python 3.11 or 3.12 is needed" in done.stderr
    assert not (tmp_path / "venv").exists()
