"""The layers of the house: imports point one way, each third-party package has one owner."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "thothy_batch"

# A package may import those on lower lines, never its neighbours on its own line.
LEVELS = (
    ("__main__",),
    ("cli",),
    ("bench",),
    ("runner",),
    ("plan", "kinds", "manifest", "store", "report"),
    ("engine",),
    ("model",),
    ("templating",),
    ("yaml_source", "resources"),
    ("process", "logs"),
    ("records", "errors", "choices", "testing"),
)
RANK = {name: level for level, names in enumerate(LEVELS) for name in names}

OWNERS = {
    "duckdb": {"store", "manifest"},
    "pyarrow": {"manifest", "store", "bench"},
    "pydantic": {"yaml_source"},
    "yaml": {"yaml_source"},
    "typer": {"cli"},
    "rich": {"cli", "report"},
    "jinja2": {"templating", "kinds", "model"},
    "tokenizers": {"model"},
    "safetensors": {"model"},
    "huggingface_hub": {"model"},
    "transformers": {"model"},
    "numba": set(),
    "triton": set(),
}
TORCH_FREE = ("plan", "manifest", "kinds", "store", "report", "cli", "runner", "bench")
TORCH_FREE_FILES = (
    "engine/protocol.py",
    "engine/start.py",
    "engine/fake_model.py",
    "engine/execution/batch.py",
    "engine/execution/launcher.py",
    "engine/execution/state_slots.py",
    "engine/llm_engine.py",
    "model/tokenizer/tokenizer.py",
    "model/config/model_config.py",
    "model/checkpoint/locate.py",
    "model/fingerprint.py",
)


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def part_of(path: Path) -> str:
    """The package directly under thothy_batch that a file belongs to, or its own name."""
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imports(path: Path, *, top_only: bool = False) -> Iterator[tuple[int, str]]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body if top_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}:{node.lineno} imports relatively"
            for alias in node.names:
                yield node.lineno, f"{node.module}.{alias.name}"


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    here = part_of(path)
    if here == "__init__":
        return
    for line, name in imports(path):
        parts = name.split(".")
        if parts[0] != "thothy_batch" or len(parts) < 2 or parts[1] == "__version__":
            continue
        there = parts[1]
        if there != here:
            assert RANK[there] > RANK[here], f"{path}:{line}: {here} may not import {there}"


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_third_party_packages_have_one_owner(path: Path) -> None:
    here = part_of(path)
    for line, name in imports(path):
        owners = OWNERS.get(name.split(".")[0])
        assert owners is None or here in owners, f"{path}:{line}: {here} may not import {name}"


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_planning_and_the_edge_do_not_import_torch(path: Path) -> None:
    relative = str(path.relative_to(PACKAGE))
    if part_of(path) in TORCH_FREE or relative in TORCH_FREE_FILES:
        for line, name in imports(path, top_only=True):
            assert name.split(".")[0] not in {"torch", "thothy_kernels"}, f"{path}:{line}: {name}"


def test_kernels_know_nothing_of_the_product() -> None:
    for path in sorted((ROOT / "kernels").rglob("*.py")):
        for line, name in imports(path):
            assert not name.startswith("thothy_batch"), f"{path}:{line}: {name}"
            assert name.split(".")[0] != "kernels", f"{path}:{line}: import thothy_kernels"


def test_an_optimised_kernel_never_imports_the_reference() -> None:
    for path in sorted((ROOT / "kernels").rglob("*.py")):
        if path.name.startswith(("cpu", "triton", "flex")):
            for line, name in imports(path):
                assert ".reference" not in name, f"{path}:{line}: {name}"


def test_files_stay_small() -> None:
    """A file is a noun: 300 lines is the hard limit (250 the aim)."""
    folders = (PACKAGE, ROOT / "kernels", ROOT / "sample_data")
    long = {
        str(path.relative_to(ROOT)): lines
        for folder in folders
        for path in folder.rglob("*.py")
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > 300
    }
    assert not long
