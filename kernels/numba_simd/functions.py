"""Decorators for compiled functions: compiled on first use, cached between processes.

Nothing is compiled at import: a run compiles the kernels that its model needs, see
`thothy_kernels.compilation`, and none of those for other dtypes and processors.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numba
from numba import types
from numba.core.ccallback import CFunc
from numba.core.dispatcher import Dispatcher

from thothy_kernels.numba_simd.code_cache import CodeCache, code_cache
from thothy_kernels.numba_simd.linking import HelperCompiler

# nogil is free and lets a kernel run beside Python. error_model "numpy" omits the test for a zero
# divisor, which would break up vector code.
_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
# Helpers are never called from Python: wrappers for it would take longer than their own code.
_HELPER_OPTIONS = {**_OPTIONS, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
_SIGNATURE = types.void(types.CPointer(types.int64))

Function = Callable[..., Any]


class Compiled(ABC):
    """A function that is compiled on first use, or loaded from the cache."""

    def __init__(self, function: Function, signatures: tuple[Any, ...]) -> None:
        self.name = f"{function.__module__}:{function.__qualname__}"  # the place of it
        self._function = function
        self._signatures = signatures
        self._is_ready = False

    @cached_property
    def _cache(self) -> CodeCache | None:
        return code_cache(self._function)

    @abstractmethod
    def compile(self) -> None:
        """Make it ready to run: load it from the cache, or compile it."""

    @property
    def has_cache(self) -> bool:
        """False if no folder can be written: what is compiled then is lost with the process."""
        return self._cache is not None

    @property
    def is_cached(self) -> bool:
        """True if it is loaded, or in the cache. It may be damaged there, and have to be compiled
        after all."""
        cache = self._cache
        return self._is_ready or (cache is not None and all(map(cache.has, self._signatures)))


class Worker(Compiled):
    """A function of one argument, int64*, for `thread_pool.launch`."""

    def __init__(self, function: Function) -> None:
        super().__init__(function, (_SIGNATURE,))

    @cached_property
    def address(self) -> int:
        """The address of its machine code, which is loaded or compiled now if need be."""
        # Numba's own decorator would compile at once, before our cache is in place.
        accepted = (_SIGNATURE.args, _SIGNATURE.return_type)
        options = {"error_model": "numpy"}
        callback = CFunc(self._function, accepted, {}, options)
        callback._cache = self._cache or callback._cache
        callback.compile()
        self._callback, self._is_ready = callback, True  # its machine code is freed with it
        return int(callback.address)

    def compile(self) -> None:
        _ = self.address


class Kernel(Compiled):
    """A function that Python calls with arguments of the given types."""

    def __call__(self, *args: Any) -> Any:
        return self._dispatcher(*args)

    @cached_property
    def _dispatcher(self) -> Dispatcher:
        dispatcher = numba.njit(**_OPTIONS)(self._function)
        dispatcher._cache = self._cache or dispatcher._cache
        for signature in self._signatures:
            dispatcher.compile(signature)
        dispatcher.disable_compile()
        self._is_ready = True
        return dispatcher

    def compile(self) -> None:
        _ = self._dispatcher


def kernel(*signatures: str) -> Callable[[Function], Kernel]:
    """Make a function that is compiled for the given signatures, and called from Python."""
    return lambda function: Kernel(function, signatures)


def worker(function: Function) -> Worker:
    """Make `function(args)`, args int64*, a worker for `thread_pool.launch`."""
    return Worker(function)


def inlined(function: Function) -> Function:
    """Compile a helper into the kernels that call it."""
    return numba.njit(pipeline_class=HelperCompiler, **_HELPER_OPTIONS)(function)
