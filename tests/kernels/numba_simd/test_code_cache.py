"""The cache of machine code: what is damaged, full or shared costs time and nothing else."""

import errno
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numba.core import config
from numba.core.caching import IndexDataCacheFile

from thothy_kernels.numba_simd import code_cache
from thothy_kernels.numba_simd.functions import Kernel

SIGNATURE = "int64(int64[::1])"


def total(values: Any) -> Any:
    result = 0
    for value in values:
        result += value
    return result


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path))
    return tmp_path


def works(kernel: Kernel) -> bool:
    return bool(kernel(np.arange(5)) == 10)


def files(folder: Path, ending: str) -> list[Path]:
    return sorted(folder.rglob(f"*.{ending}"))


def test_a_function_is_compiled_on_first_use_and_kept(folder: Path) -> None:
    first = Kernel(total, (SIGNATURE,))
    assert not first.is_cached
    assert not files(folder, "nbc")
    assert works(first)
    assert first.is_cached
    second = Kernel(total, (SIGNATURE,))
    assert second.is_cached
    assert works(second)
    assert sum(second._dispatcher.stats.cache_hits.values()) == 1


@pytest.mark.few(2)
@pytest.mark.parametrize("ending", ["nbi", "nbc"])
@pytest.mark.parametrize("content", [b"", b"\x80\x04", b"no pickle"])
def test_a_damaged_file_is_compiled_again(
    ending: str, content: bytes, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Kernel(total, (SIGNATURE,)).compile()
    (damaged,) = files(folder, ending)
    damaged.write_bytes(content)
    with caplog.at_level(logging.WARNING, "thothy_kernels"):
        assert works(Kernel(total, (SIGNATURE,)))
    assert "compiled again" in caplog.text
    assert Kernel(total, (SIGNATURE,)).is_cached  # and kept this time


def test_a_lost_file_is_compiled_again(folder: Path) -> None:
    Kernel(total, (SIGNATURE,)).compile()
    files(folder, "nbc")[0].unlink()
    again = Kernel(total, (SIGNATURE,))
    assert not again.is_cached
    assert works(again)


def test_a_full_disk_keeps_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(IndexDataCacheFile, "save", full)
    kernel = Kernel(total, (SIGNATURE,))
    with caplog.at_level(logging.WARNING, "thothy_kernels"):
        assert works(kernel)
    assert "No space left on device" in caplog.text
    assert not Kernel(total, (SIGNATURE,)).is_cached


def test_without_a_folder_every_process_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code_cache.CodeCache._impl_class, "_locator_classes", [])
    kernel = Kernel(total, (SIGNATURE,))
    assert not kernel.has_cache
    assert not kernel.is_cached
    assert works(kernel)
    assert kernel.is_cached  # in this process


def test_each_processor_has_files_of_its_own(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Machines that share a home and compile at once would overwrite one another's code."""
    Kernel(total, (SIGNATURE,)).compile()
    monkeypatch.setattr(code_cache, "_key", lambda: "another-processor")
    other = Kernel(total, (SIGNATURE,))
    assert not other.is_cached
    other.compile()
    assert len(files(folder, "nbi")) == len(files(folder, "nbc")) == 2


def test_the_key_has_the_sources_that_a_kernel_may_contain() -> None:
    names = {source.name for source in code_cache._sources()}
    assert {"row_norm.py", "vec16.py", "forms.py"} <= names
    assert not {"reference.py", "triton_impl.py", "compilation.py"} & names
