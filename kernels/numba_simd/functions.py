"""Compile a function, with its machine code cached between processes where that is possible."""

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

# nogil costs nothing and lets a kernel run beside Python. error_model "numpy": a division needs
# no test for zero, which would break up vector code.
_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
_WORKER_SIGNATURE = normalize_signature("void(CPointer(int64))")

Function = Callable[..., Any]


def kernel(*signatures: str) -> Callable[[Function], Function]:
    """Compile for the given signatures at import, to be called from Python."""

    def decorate(function: Function) -> Function:
        dispatcher = numba.njit(**_OPTIONS)(function)
        dispatcher._cache = _cache_of(function) or dispatcher._cache
        for signature in signatures:
            dispatcher.compile(signature)
        dispatcher.disable_compile()
        return dispatcher

    return decorate


def worker(function: Function) -> int:
    """Compile `function(args)`, `args` an int64 array, for `threads.launch`; gives its address."""
    # By hand, not by Numba's decorator: that compiles at once, before our cache is in place.
    callback = CFunc(function, _WORKER_SIGNATURE, {}, {"error_model": "numpy"})
    callback._cache = _cache_of(function) or callback._cache
    callback.compile()
    _KEPT.append(callback)
    return int(callback.address)


# The machine code of a callback is freed with its Python object.
_KEPT: list[Any] = []


def inlined(function: Function) -> Function:
    """A helper that is compiled into the kernels that call it."""
    return numba.njit(**_OPTIONS)(function)


def spliced(function: Function) -> Function:
    """`inlined` before anything is compiled: for a large helper with one caller.

    LLVM sees it once, in its caller, and not again by itself: nested helpers would be optimised
    once per level, which doubled the time that attention takes to compile.
    """
    return numba.njit(inline="always", **_OPTIONS)(function)


class _SourceCache(FunctionCache):  # type: ignore[misc]
    """Numba's cache, which knows a function by the file that it stands in, made to look at all.

    A kernel contains the helpers that it calls, of other files too. After an upgrade that changes
    only them, machine code of the old ones would be found and used.
    """

    def _index_key(self, sig: Any, codegen: Any) -> Any:
        return (*super()._index_key(sig, codegen), self._sources)

    @property
    def _sources(self) -> str:
        return _digest()


@cache
def _digest() -> str:
    """Of all sources of the kernels, as helpers are taken from many folders, and of what the
    processor may use."""
    digest = hashlib.blake2b(cpu_features.level.encode(), digest_size=16)
    for source in sorted(Path(__file__).parents[1].rglob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()


def _cache_of(function: Function) -> Any:
    """The cache of a function; None where there is no place for one.

    Numba looks for a folder beside the source, then in the user's cache directory. Where neither
    can be written it refuses; then each process compiles for itself, which costs seconds at its
    start and nothing else.
    """
    try:
        return _SourceCache(function)
    except RuntimeError as error:
        if "no locator available" not in str(error):
            raise
        return None
