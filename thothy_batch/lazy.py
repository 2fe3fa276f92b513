"""Package faces that import a module only when one of its names is first used."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy_face(package: str, homes: Mapping[str, tuple[str, ...]]) -> Callable[[str], Any]:
    """Return the `__getattr__` of a package's face.

    `homes` names, for each module inside `package`, the names that the face offers of it. Imports
    stay free: `--help`, `plan` and `status` load neither torch nor DuckDB. Raises AttributeError
    for any other name, as Python does.
    """
    found = {name: module for module, names in homes.items() for name in names}

    def get(name: str) -> Any:
        if name not in found:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{found[name]}"), name)

    return get
