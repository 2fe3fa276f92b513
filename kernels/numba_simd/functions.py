"""Decorators that compile a function with Numba and cache its machine code between processes."""

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numba
from numba.core.caching import FunctionCache
from numba.core.ccallback import CFunc
from numba.core.sigutils import normalize_signature

from thothy_kernels.numba_simd import cpu_features

# nogil is free and lets a kernel run beside Python. error_model "numpy" omits the test for a zero
# divisor, which would break up vector code.
_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
_WORKER_SIGNATURE = normalize_signature("void(CPointer(int64))")

Function = Callable[..., Any]


def kernel(*signatures: str) -> Callable[[Function], Function]:
    """Compile for the given signatures at import; the result is called from Python."""

    def decorate(function: Function) -> Function:
        dispatcher = numba.njit(**_OPTIONS)(function)
        dispatcher._cache = _cache_of(function) or dispatcher._cache
        for signature in signatures:
            dispatcher.compile(signature)
        dispatcher.disable_compile()
        return dispatcher

    return decorate


def worker(function: Function) -> int:
    """Compile `function(args)`, args int64*, for `thread_pool.launch`; returns its address."""
    # Numba's own decorator would compile at once, before our cache is in place.
    callback = CFunc(function, _WORKER_SIGNATURE, {}, {"error_model": "numpy"})
    callback._cache = _cache_of(function) or callback._cache
    callback.compile()
    _KEPT.append(callback)
    return int(callback.address)


# A callback's machine code is freed with its Python object.
_KEPT: list[Any] = []


def inlined(function: Function) -> Function:
    """Compile a helper into the kernels that call it."""
    return numba.njit(**_OPTIONS)(function)


def spliced(function: Function) -> Function:
    """Inline a large helper with one caller before Numba compiles anything.

    LLVM optimises it once, inside its caller. With `inlined`, nested helpers are optimised once per
    level, which doubled the compile time of attention.
    """
    return numba.njit(inline="always", **_OPTIONS)(function)


class _SourceCache(FunctionCache):  # type: ignore[misc]
    """Numba's code cache, keyed by all kernel sources instead of the function's own file.

    A kernel contains helpers from other files. Numba's key would still match after an upgrade that
    changes only those, and stale machine code would run.
    """

    def _index_key(self, sig: Any, codegen: Any) -> Any:
        return (*super()._index_key(sig, codegen), self._sources)

    @property
    def _sources(self) -> str:
        return _digest()


@cache
def _digest() -> str:
    """Digest of the instruction level and of all kernel sources: helpers come from many folders."""
    digest = hashlib.blake2b(cpu_features.level.encode(), digest_size=16)
    for source in sorted(Path(__file__).parents[1].rglob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()


def _cache_of(function: Function) -> Any:
    """The code cache of a function; None if no cache folder is writable.

    Numba tries a folder beside the source, then the user's cache directory. Without either, each
    process compiles for itself, which costs seconds at its start and nothing else.
    """
    try:
        return _SourceCache(function)
    except RuntimeError as error:
        if "no locator available" not in str(error):
            raise
        return None
