"""Cache of machine code between processes: one pair of files for each function and processor.

It only saves the time of compiling again. A folder that cannot be written, a full disk and a file
that is damaged cost that time and nothing else.
"""

import contextlib
import hashlib
import logging
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite
import numba
from numba.core import config
from numba.core.caching import FunctionCache, IndexDataCacheFile
from numba.core.registry import cpu_target

from thothy_kernels.numba_simd import cpu_features

_log = logging.getLogger(__name__)


class CodeCache(FunctionCache):  # type: ignore[misc]
    """Numba's code cache, keyed by all sources that a kernel may contain, not its own file alone.

    Numba's key would still match after an upgrade that changes only helpers, and stale machine code
    would run. The key is part of the file names: processes that compile for different processors at
    the same time, in a home that machines share, cannot write into each other's files.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        self._cache_file = IndexDataCacheFile(
            cache_path=self._cache_path,
            filename_base=f"{self._impl.filename_base}-{_key()}",
            source_stamp=self._impl.locator.get_source_stamp(),
        )

    def has(self, sig: Any) -> bool:
        """True if code for a signature, in the form in which it is compiled, is stored."""
        key = self._index_key(sig, cpu_target.target_context.codegen())
        try:
            name = self._cache_file._load_index().get(key)
            return name is not None and Path(self._cache_file._data_path(name)).is_file()
        except Exception:  # as in load_overload
            return False

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except Exception as error:  # a damaged pickle raises anything
            _log.warning("%s is damaged (%s): compiled again", self._cache_file._index_path, error)
            self._forget()
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)
        except OSError as error:
            _log.warning("compiled kernels are not kept: %s", error)

    def _forget(self) -> None:
        with contextlib.suppress(OSError):  # the next process compiles again, too
            self.flush()


def code_cache(function: Callable[..., Any]) -> CodeCache | None:
    """The code cache of a function; None if no cache folder is writable.

    Numba tries NUMBA_CACHE_DIR, a folder beside the source, then the user's cache directory.
    Without any, each process compiles for itself, which costs time at its start and nothing else.
    """
    try:
        return CodeCache(function)
    except RuntimeError as error:
        if "no locator available" not in str(error):
            raise
        return None


@cache
def _key() -> str:
    """Digest of all that decides the machine code beside a function's own signature: versions,
    processor, instruction level, and sources, since helpers come from many folders."""
    codegen = cpu_target.target_context.codegen()
    facts = (
        numba.__version__,
        llvmlite.__version__,
        *codegen.magic_tuple(),
        config.OPT,
        cpu_features.level,
    )
    digest = hashlib.blake2b(repr(facts).encode(), digest_size=8)
    for source in sorted(_sources()):
        digest.update(source.read_bytes())
    return digest.hexdigest()


def _sources() -> list[Path]:
    """Files whose code may be part of a kernel: those of other implementations never are."""
    root = Path(__file__).parents[1]
    return [
        source
        for source in root.glob("*/**/*.py")
        if not {"triton_impl", "flex_impl"} & set(source.relative_to(root).parts)
        and source.stem not in ("triton_impl", "reference")
    ]
