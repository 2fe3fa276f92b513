"""The layers of the house: imports point one way, packages have faces, files stay small."""

import ast
import importlib
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "thothy_batch"
KERNELS = ROOT / "kernels"

# A package may import those on lower lines, never its neighbours on its own line.
LEVELS = {
    "thothy_batch": (
        ("__main__",),
        ("cli",),
        ("bench",),
        ("runner",),
        ("plan", "kinds", "manifest", "store", "report"),
        ("engine",),
        ("model",),
        ("templating", "yaml_source"),
        ("process", "resources", "logs"),
        ("records", "errors", "testing", "lazy", "choices", "canonical"),
    ),
    "thothy_batch.engine": (
        ("start",),
        ("in_process",),
        ("process",),
        ("builder",),
        ("calibration",),
        ("model_loader", "simulation", "llm_engine", "model_info"),
        ("fake_model",),
        ("execution",),
        ("output", "speculative"),
        ("scheduling",),
        ("kv_cache",),
        ("cost", "core"),
        ("hardware", "protocol"),
    ),
    "thothy_batch.runner": (
        ("commands",),
        ("loop",),
        ("session",),
        ("planning",),
        ("monitoring",),
        ("work",),
        ("entries",),
    ),
    "thothy_batch.store": (
        ("leftovers",),
        ("store",),
        ("recovery",),
        ("publisher",),
        ("queries",),
        ("database",),
        ("journal",),
        ("columns", "lock", "status"),
        ("paths",),
        ("files",),
    ),
    "thothy_batch.model": (
        ("loading",),
        ("decoder", "weight_source", "quantization"),
        ("kv_pool",),
        ("inputs", "rope", "weights"),
        ("fingerprint", "tokenizer"),
        ("config",),
        ("checkpoint", "host_memory"),
    ),
    "thothy_kernels": (
        ("compilation",),
        ("linear_int8", "rope_and_write"),
        (
            "block_copy",
            "gated_activation",
            "kv_write",
            "linear",
            "paged_attention",
            "rms_norm",
            "rope",
            "sample",
            "step_state",
        ),
        ("numba_simd", "tuning", "invariance"),
        ("launch",),
        ("contract", "transfer"),
    ),
}
# Modules of the engine that other packages may import beside the faces of these wings.
ENGINE_MODULES = ("protocol", "start", "model_info")
ENGINE_FACES = ("core", "cost", "simulation", "hardware", "calibration")
ENGINE_FOR_BENCH = ("builder", "llm_engine", "fake_model")

OWNERS = {
    "duckdb": {"store", "manifest"},
    "pyarrow": {"manifest", "store", "bench"},
    "pydantic": {"yaml_source"},
    "yaml": set(),
    "typer": {"cli"},
    "rich": {"cli", "report"},
    "jinja2": {"templating"},
    "tokenizers": {"model"},
    "safetensors": {"model"},
    "huggingface_hub": {"model"},
    "transformers": {"model"},
    "pynvml": {"engine"},
    "prometheus_client": {"runner"},
    "numba": set(),
    "triton": set(),
}
TORCH_FREE = (
    "cli",
    "bench",
    "runner",
    "plan",
    "kinds",
    "manifest",
    "store",
    "report",
    "templating",
    "process",
    "engine/protocol.py",
    "engine/start.py",
    "engine/fake_model.py",
    "engine/llm_engine.py",
    "engine/model_info.py",
    "engine/core",
    "engine/cost",
    "engine/hardware",
    "engine/kv_cache",
    "engine/scheduling",
    "engine/speculative",
    "engine/output",
    "engine/simulation",
    "engine/execution/batch.py",
    "engine/execution/launcher.py",
    "engine/execution/state_slots.py",
    "model/config",
    "model/checkpoint",
    "model/tokenizer",
    "model/fingerprint.py",
)
MAX_FILES, MAX_ENGINE_FILES = 20, 9
MAX_LINES, MAX_TEST_LINES = 300, 500


@cache
def modules() -> dict[str, Path]:
    """Dotted name of each product module; a package is named without its `__init__`."""
    found = {}
    for folder, name in ((PACKAGE, "thothy_batch"), (KERNELS, "thothy_kernels")):
        for path in sorted(folder.rglob("*.py")):
            parts = [name, *path.relative_to(folder).with_suffix("").parts]
            found[".".join(parts).removesuffix(".__init__")] = path
    return found


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def packages() -> list[str]:
    return [name for name, path in modules().items() if path.name == "__init__.py"]


def imports(path: Path, *, top_only: bool = False) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of everything that a file imports, names of modules included."""
    tree = parsed(path)
    for node in tree.body if top_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}:{node.lineno} imports relatively"
            for alias in node.names:
                yield node.lineno, f"{node.module}.{alias.name}"


def module_of(name: str) -> str:
    """The module that a dotted name of the product stands in."""
    while name and name not in modules():
        name = name.rpartition(".")[0]
    return name


def child_of(package: str, name: str) -> str:
    """The part of a package that a dotted name belongs to; empty for other packages."""
    return name.removeprefix(package + ".").split(".")[0] if name.startswith(package + ".") else ""


@pytest.mark.parametrize("package", LEVELS)
def test_imports_point_down(package: str) -> None:
    rank = {name: level for level, names in enumerate(LEVELS[package]) for name in names}
    for name, path in modules().items():
        here = child_of(package, name)
        if not here:
            continue
        assert here in rank, f"{name} has no place in the order of {package}"
        for line, target in imports(path):
            there = child_of(package, module_of(target))
            if there and there != here:
                assert rank[there] > rank[here], f"{path}:{line}: {here} may not import {there}"


def test_no_modules_import_each_other() -> None:
    graph = {
        name: {module_of(target) for _, target in imports(path, top_only=True)} - {"", name}
        for name, path in modules().items()
    }
    # A package's face may name its modules, which are inside it.
    for name in packages():
        graph[name] = {target for target in graph[name] if not target.startswith(name + ".")}
    state: dict[str, str] = {}

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert state.get(name) != "open", f"an import circle: {' -> '.join((*way, name))}"
        if name not in state:
            state[name] = "open"
            for target in sorted(graph.get(name, ())):
                visit(target, (*way, name))
            state[name] = "done"

    for name in sorted(graph):
        visit(name, ())


def test_outsiders_import_a_package_through_its_face() -> None:
    broken = []
    for name, path in modules().items():
        if not name.startswith("thothy_batch."):
            continue
        here = name.split(".")[1]
        for line, target in imports(path):
            module = module_of(target)
            parts = module.split(".")
            if parts[0] != "thothy_batch" or len(parts) < 3 or parts[1] == here:
                continue
            if not _is_face(parts, here):
                broken.append(f"{path.relative_to(ROOT)}:{line}: {target}")
    assert not broken, "\n".join(broken)


def _is_face(parts: list[str], here: str) -> bool:
    """True if package `here` may import the module of these parts in another package."""
    is_package = modules()[".".join(parts)].name == "__init__.py"
    if parts[1] == "engine":
        direct = ENGINE_MODULES + (ENGINE_FOR_BENCH if here == "bench" else ())
        return len(parts) == 3 and (parts[2] in direct or (is_package and parts[2] in ENGINE_FACES))
    if is_package:
        return True
    # A module that its package's face names may be imported as a module.
    return parts[-1] in _exported(".".join(parts[:-1]))


@cache
def _exported(package: str) -> tuple[str, ...]:
    for node in parsed(modules()[package]).body:
        targets = node.targets if isinstance(node, ast.Assign) else ()
        targets = [node.target] if isinstance(node, ast.AnnAssign) else targets
        if any(isinstance(each, ast.Name) and each.id == "__all__" for each in targets):
            assert isinstance(node, ast.Assign | ast.AnnAssign)
            assert node.value is not None
            return tuple(ast.literal_eval(node.value))
    raise AssertionError(f"{package} has no __all__")


@pytest.mark.parametrize("package", packages())
def test_every_package_has_a_face(package: str) -> None:
    exported = _exported(package)
    assert list(exported) == sorted(set(exported), key=_as_ruff_sorts), package
    face = importlib.import_module(package)
    for name in exported:
        if f"{package}.{name}" not in modules():
            assert getattr(face, name) is not None


def _as_ruff_sorts(name: str) -> tuple[int, str]:
    """Constants, then classes, then the rest, as ruff sorts `__all__`."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2), name


def test_every_module_says_what_it_is() -> None:
    for name, path in modules().items():
        text = ast.get_docstring(parsed(path))
        assert text, f"{name} has no docstring"
        first = text.split("\n\n")[0].rstrip()
        assert first.endswith((".", ":", '"')), f"{name}: no whole sentence"


def test_third_party_packages_have_one_owner() -> None:
    for name, path in modules().items():
        if name.startswith("thothy_batch."):
            here = name.split(".")[1]
            for line, target in imports(path):
                owners = OWNERS.get(target.split(".")[0])
                assert owners is None or here in owners, f"{path}:{line}: {here} imports {target}"


def test_planning_and_the_edge_do_not_import_torch() -> None:
    for path in modules().values():
        if not path.is_relative_to(PACKAGE):
            continue
        relative = path.relative_to(PACKAGE)
        if any(relative.is_relative_to(part) for part in TORCH_FREE):
            for line, target in imports(path, top_only=True):
                first = target.split(".")[0]
                assert first not in {"torch", "thothy_kernels"}, f"{path}:{line}: {target}"


@pytest.mark.parametrize(
    ("imported", "absent"),
    [
        ("thothy_batch.cli.main", ("torch", "duckdb", "pyarrow", "jinja2")),
        ("thothy_batch.runner.commands.plan", ("torch",)),
        ("thothy_batch.runner.monitoring.store_state", ("torch",)),
        (
            "thothy_batch.engine.protocol, thothy_batch.engine.process.messages, "
            "thothy_batch.engine.process.channel, thothy_batch.records, thothy_batch.errors",
            ("torch", "numpy", "pydantic", "pyarrow", "duckdb", "yaml", "jinja2", "rich"),
        ),
    ],
)
def test_light_modules_load_nothing_heavy(imported: str, absent: tuple[str, ...]) -> None:
    code = f"import sys, {imported}; print(*set({absent!r}) & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_kernels_know_nothing_of_the_product() -> None:
    for path in sorted(KERNELS.rglob("*.py")):
        for line, name in imports(path):
            assert not name.startswith("thothy_batch"), f"{path}:{line}: {name}"
            assert name.split(".")[0] != "kernels", f"{path}:{line}: import thothy_kernels"


def test_an_implementation_never_imports_the_reference_or_another_implementation() -> None:
    kinds = ("cpu_impl", "triton_impl", "flex_impl")
    for name, path in modules().items():
        own = [part for part in name.split(".") if part in kinds]
        if name.startswith("thothy_kernels.") and own:
            op = name.partition(f".{own[0]}")[0]
            for line, target in imports(path):
                foreign = [f"{op}.{kind}" for kind in ("reference", *kinds) if kind != own[0]]
                assert not target.startswith(tuple(foreign)), f"{path}:{line}: {target}"


def test_folders_stay_small() -> None:
    counts: dict[Path, int] = defaultdict(int)
    for path in modules().values():
        counts[path.parent] += 1
    assert not {str(folder): num for folder, num in counts.items() if num > MAX_FILES}
    assert counts[PACKAGE / "engine"] <= MAX_ENGINE_FILES


def test_files_stay_small() -> None:
    """A file is a noun: 300 lines is the hard limit (250 the aim), 500 for a test."""
    limits = {PACKAGE: MAX_LINES, KERNELS: MAX_LINES, ROOT / "sample_data": MAX_LINES}
    limits[ROOT / "tests"] = MAX_TEST_LINES
    long = {
        str(path.relative_to(ROOT)): lines
        for folder, limit in limits.items()
        for path in folder.rglob("*.py")
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > limit
    }
    assert not long
