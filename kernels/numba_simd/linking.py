"""A compiler pipeline by which a kernel's code is optimised once, with its helpers inside.

By itself Numba optimises each helper and translates it to machine code, with all that it calls,
before it does the same to the caller: code that is nested four deep is compiled five times. Here
helpers are only lowered to LLVM's language, and the kernel that they are linked into is optimised
as a whole.
"""

from typing import Any

from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler


class _NoEnvironment:
    """Stands in for a code generator: a helper has no environment of its own."""

    def set_env(self, env_name: str, env: Any) -> None:
        pass


class _HelperLibrary(JITCodeLibrary):  # type: ignore[misc]
    """The code of a helper, which has no address of its own."""

    codegen = _NoEnvironment()

    def get_pointer_to_function(self, name: str) -> int:
        return 0

    def _optimize_final_module(self) -> None:
        pass

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._verify_declare_only_symbols()
        self._finalized = True


class HelperCompiler(Compiler):  # type: ignore[misc]
    """Compiles a helper as far as kernels need it."""

    def compile_extra(self, func: Any) -> Any:
        self.state.library = _HelperLibrary(self.state.targetctx.codegen(), func.__qualname__)
        return super().compile_extra(func)
