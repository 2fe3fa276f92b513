"""Building blocks of the Numba kernels: exact vector operations, threads, and the code cache."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

import thothy_kernels
from thothy_kernels.numba_simd import raw_memory, thread_pool, vec16
from thothy_kernels.numba_simd.arguments import indices_of, pack
from thothy_kernels.numba_simd.exp import exp
from thothy_kernels.numba_simd.functions import kernel, worker
from thothy_kernels.rms_norm import rms_norm


@kernel("void(float32[::1], float32[::1])")
def _exp_all(x, out):
    for i in range(0, len(x), 16):
        vec16.store(out, i, exp(vec16.load(x, i)))


@kernel("void(float32[::1], uint16[::1], float32[::1])")
def _through_bfloat16(x, narrow, wide):
    for i in range(0, len(x), 16):
        vec16.store(narrow, i, vec16.load(x, i))
        vec16.store(wide, i, vec16.load(narrow, i))


@kernel("void(float32[::1], float32[::1])")
def _sum_first(x, sums):
    for count in range(17):
        part = vec16.load_first(x, 0, count)
        sums[count] = vec16.reduce_add(part) + vec16.reduce_add(
            vec16.first_lanes(vec16.load(x, 0), count, np.float32(0.0))
        )


class _Arguments(NamedTuple):
    next_index: int
    num_values: int
    values: int


_ARG = indices_of(_Arguments)


@worker
def _count_up(args):
    values = raw_memory.int64_at(args[_ARG.values], args[_ARG.num_values])
    while True:
        i = raw_memory.fetch_add(args, _ARG.next_index, 1)
        if i >= args[_ARG.num_values]:
            return
        values[i] += i


def test_exponential_is_within_one_unit_in_the_last_place():
    x = np.linspace(-87.3, 88.7, 1 << 18).astype(np.float32)
    out = np.empty_like(x)
    _exp_all(x, out)
    exact = np.exp(x.astype(np.float64))
    assert (np.abs(out - exact) <= np.spacing(exact.astype(np.float32))).all()


def test_exponential_at_its_ends():
    x = np.array([0.0, -88.0, -1e30, -np.inf, 89.0, np.inf, np.nan, 88.7228] * 2, np.float32)
    out = np.empty_like(x)
    _exp_all(x, out)
    assert out[:6].tolist() == [1.0, 0.0, 0.0, 0.0, np.inf, np.inf]
    assert np.isnan(out[6])
    assert np.isfinite(out[7])


def test_bfloat16_rounds_like_torch():
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(-(2**31), 2**31 - 1, (1 << 16,), generator=generator, dtype=torch.int32)
    edges = torch.tensor([0x3F808000, 0x3F818000, 0x7F7FFFFF, 0x7F800000, 0x7FFFFFFF, 1] + [0] * 10)
    x = torch.cat((bits, edges.int())).view(torch.float32)
    narrow, wide = torch.empty(len(x), dtype=torch.bfloat16), torch.empty(len(x))
    _through_bfloat16(x.numpy(), narrow.view(torch.uint16).numpy(), wide.numpy())
    number = ~x.isnan()
    assert torch.equal(narrow[number], x.bfloat16()[number])
    assert torch.equal(wide[number], x.bfloat16().float()[number])
    assert wide[~number].isnan().all()


def test_partial_vectors_hold_zeros_behind_their_end():
    x = np.arange(1, 17, dtype=np.float32)
    sums = np.empty(17, np.float32)
    _sum_first(x, sums)
    assert sums.tolist() == [2.0 * sum(range(1, count + 1)) for count in range(17)]


@pytest.mark.parametrize("num_threads", [1, 2, 5])
@pytest.mark.parametrize("pool", ["openmp", "python"])
def test_every_index_is_taken_once(num_threads, pool, monkeypatch):
    if pool == "python":
        monkeypatch.setattr(thread_pool, "_openmp_parallel", lambda: None)
    else:
        assert thread_pool._openmp_parallel() is not None
    values = np.zeros(10_000, np.int64)
    arguments = _Arguments(next_index=0, num_values=len(values), values=values.ctypes.data)
    thread_pool.launch(_count_up, pack(arguments), num_threads)
    assert (values == np.arange(10_000)).all()


def test_arguments_are_filled_by_name():
    packed = pack(_Arguments(values=7, num_values=5, next_index=3))
    assert packed.dtype == np.int64
    assert packed.tolist() == [3, 5, 7]
    assert [packed[i] for i in (_ARG.next_index, _ARG.num_values, _ARG.values)] == [3, 5, 7]
    with pytest.raises(TypeError, match="num_values"):
        _Arguments(next_index=0, values=0)
    with pytest.raises(TypeError, match="count"):
        _Arguments(next_index=0, num_values=0, values=0, count=0)


@pytest.mark.rest
def test_importing_a_contract_compiles_nothing():
    code = "import sys, thothy_kernels.sample, thothy_kernels.paged_attention as p; "
    code += "assert 'numba' not in sys.modules, 'numba was imported'"
    subprocess.run([sys.executable, "-c", code], env=_environment(), check=True)


def _environment(**changes: str) -> dict[str, str]:
    package = Path(thothy_kernels.__file__)
    folder = package.parent.parent
    if package.parent.name != "thothy_kernels":  # an editable install: no folder of that name
        return {**os.environ, **changes}
    return {**os.environ, "PYTHONPATH": str(folder), **changes}


_SMALL_NORM = """
import sys, torch
from thothy_kernels.rms_norm import rms_norm, cpu_impl
print(repr(rms_norm(torch.arange(6.0), torch.ones(6), 1e-6, impl="cpu").tolist()))
"""


@pytest.mark.rest
def test_kernels_run_from_a_tree_that_cannot_be_written(tmp_path):
    """The code cache moves to the user's cache folder; without one, each process compiles."""
    tree = tmp_path / "tree"
    shutil.copytree(
        Path(thothy_kernels.__file__).parent,
        tree / "thothy_kernels",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    # A file in the place of each cache folder: even the superuser cannot write there.
    for folder in list((tree / "thothy_kernels").rglob("*")):
        if folder.is_dir():
            (folder / "__pycache__").write_text("")
    expected = rms_norm(torch.arange(6.0), torch.ones(6), 1e-6, impl="cpu").tolist()
    home, no_home = tmp_path / "home", tmp_path / "no_home"
    home.mkdir()
    no_home.write_text("")
    for place in (home, no_home):
        environment = {
            **os.environ,
            "PYTHONPATH": str(tree),
            "PYTHONDONTWRITEBYTECODE": "1",
            "HOME": str(place),
            "XDG_CACHE_HOME": str(place / "cache"),
        }
        command = [sys.executable, "-c", _SMALL_NORM]
        # Two at once must not corrupt each other's cache.
        runs = [
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
            for _ in range(2)
        ]
        for run in runs:
            output, _ = run.communicate(timeout=900)
            assert run.returncode == 0
            assert output.strip() == repr(expected)
    assert list(home.rglob("*.nbi")), "the user's cache folder was not used"
