"""Kernels compiled beforehand: all that a model needs, no others, on any number of processes."""

import signal
import sys
from collections import deque
from pathlib import Path
from typing import Any

import pytest
import torch

from thothy_batch.engine.in_process import InProcessEngine
from thothy_batch.records import EngineSpec, ModelSpec, Request, Sampling
from thothy_kernels import compilation
from thothy_kernels.compilation import KernelNeeds, compile_kernels
from thothy_kernels.numba_simd import thread_pool
from thothy_kernels.numba_simd.functions import Compiled, Kernel, Worker

EMBEDDED = Path(__file__).parents[2] / "sample_data" / "model"


class Fake(Compiled):
    """A kernel that records where it is compiled."""

    def __init__(self, name: str, *, is_cached: bool = False, has_cache: bool = True) -> None:
        self.name = name
        self.fakes = (is_cached, has_cache)
        self.num_compiled = 0

    @property
    def is_cached(self) -> bool:
        return self.fakes[0]

    @property
    def has_cache(self) -> bool:
        return self.fakes[1]

    def compile(self) -> None:
        self.num_compiled += 1


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The names of all kernels that run."""
    names: set[str] = set()
    launch, call = thread_pool.launch, Kernel.__call__

    def recorded_launch(worker: Worker, args: Any, num_threads: int) -> None:
        names.add(worker.name)
        launch(worker, args, num_threads)

    def recorded_call(kernel: Kernel, *args: Any) -> Any:
        names.add(kernel.name)
        return call(kernel, *args)

    monkeypatch.setattr(thread_pool, "launch", recorded_launch)
    monkeypatch.setattr(Kernel, "__call__", recorded_call)
    return names


@pytest.mark.parametrize(
    ("dtype", "quantization"),
    [
        ("float32", "none"),
        pytest.param("bfloat16", "none", marks=pytest.mark.rest),
        pytest.param("float32", "int8", marks=pytest.mark.rest),
        pytest.param("bfloat16", "int8", marks=pytest.mark.rest),
    ],
)
def test_the_kernels_of_a_model_are_all_that_it_runs(
    dtype: str, quantization: str, used: set[str]
) -> None:
    model = ModelSpec(id=str(EMBEDDED), dtype=dtype, quantization=quantization)
    engine = InProcessEngine.start(EngineSpec(model=model, device="cpu", num_blocks=32))
    settings: list[dict[str, Any]] = [
        {},
        {"temperature": 1.0},
        {"temperature": 0.7, "top_k": 5, "top_p": 0.9},
        {"repetition_penalty": 1.2},
    ]
    engine.submit(
        Request(i, "", list(range(5, 45)), Sampling(max_tokens=3, **more))
        for i, more in enumerate(settings)
    )
    while engine.engine.has_work:
        engine.poll(1.0)
    needs = KernelNeeds(
        dtype=getattr(torch, dtype),
        head_dim=64,
        block_size=32,
        activation="silu",
        is_int8=quantization == "int8",
    )
    assert {kernel.name for kernel in needs.kernels()} == used


def test_only_what_is_missing_is_compiled_and_everything_is_loaded() -> None:
    fakes = [Fake("a"), Fake("b", is_cached=True), Fake("c")]
    told: list[tuple[int, int]] = []
    assert compile_kernels(fakes, report=lambda *counts: told.append(counts)) == 2
    assert [fake.num_compiled for fake in fakes] == [2, 1, 2]  # the last time only loads it
    assert told == [(0, 2), (1, 2), (2, 2)]
    assert compile_kernels([Fake("b", is_cached=True)], report=lambda *counts: 1 / 0) == 0


@pytest.fixture
def helpers(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Other processes that say that they compiled a kernel, or end at the first one."""
    started: list[Any] = []
    code = "import sys\nfor line in sys.stdin: print('compiled', line, end='', flush=True)"
    start = compilation.subprocess.Popen

    def popen(command: list[str], **more: Any) -> Any:
        started.append(start([sys.executable, "-c", popen.code], **more))  # type: ignore[attr-defined]
        return started[-1]

    popen.code = code  # type: ignore[attr-defined]
    started.append(popen)
    monkeypatch.setattr(compilation.subprocess, "Popen", popen)
    return started


def test_processes_share_the_work_and_end_with_it(helpers: list[Any]) -> None:
    fakes = [Fake(f"m:{i}") for i in range(40)]
    assert compile_kernels(fakes, num_processes=3) == 40
    assert len(helpers) == 3
    assert all(helper.returncode is not None for helper in helpers[1:])
    assert all(fake.num_compiled >= 1 for fake in fakes)


def test_what_another_process_fails_at_is_compiled_here(helpers: list[Any]) -> None:
    helpers[0].code = "input()"  # ends without a word
    fakes = [Fake(f"m:{i}") for i in range(12)]
    compile_kernels(fakes, num_processes=2)
    assert all(fake.num_compiled >= 1 for fake in fakes)


def test_a_process_that_no_longer_reads_is_done_without(helpers: list[Any]) -> None:
    helpers[0].code = "import os, time; os.close(0); print('compiled', flush=True); time.sleep(60)"
    helper = compilation._start()
    compilation._serve(helper, deque(Fake(f"m:{i}") for i in range(3)))
    compilation._end(helper)
    assert helper.returncode == -signal.SIGKILL


def test_an_interrupt_ends_other_processes_at_once(helpers: list[Any]) -> None:
    class Interrupting(Fake):
        def compile(self) -> None:
            raise KeyboardInterrupt

    helpers[0].code = "import time; time.sleep(60)"
    with pytest.raises(KeyboardInterrupt):
        compile_kernels([Interrupting(f"m:{i}") for i in range(12)], num_processes=2)
    assert helpers[1].returncode == -signal.SIGKILL


@pytest.mark.rest
def test_a_process_that_compiles_ends_when_no_one_asks_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = (
        "import time\nclass kernel:\n    def compile(): print('here', flush=True); time.sleep(60)"
    )
    (tmp_path / "slow_module.py").write_text(slow)
    monkeypatch.syspath_prepend(tmp_path)
    with compilation._start() as helper:
        assert helper.stdin is not None
        assert helper.stdout is not None
        print("slow_module:kernel", file=helper.stdin, flush=True)
        assert helper.stdout.readline() == "here\n"
        helper.stdin.close()
        assert helper.wait(30) == 0


def test_no_process_is_started_where_nothing_could_come_back(helpers: list[Any]) -> None:
    compile_kernels([Fake(f"m:{i}", has_cache=False) for i in range(12)], num_processes=4)
    assert len(helpers) == 1


def test_a_process_that_cannot_start_is_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    def popen(*args: Any, **more: Any) -> Any:
        raise OSError("no more processes")

    monkeypatch.setattr(compilation.subprocess, "Popen", popen)
    assert compile_kernels([Fake(f"m:{i}") for i in range(12)], num_processes=2) == 12


def test_a_name_leads_to_its_kernel() -> None:
    """Another process is told a name."""
    needs = KernelNeeds(torch.float32, head_dim=64, block_size=32, activation="silu")
    for kernel in needs.kernels():
        module, _, function = kernel.name.partition(":")
        assert getattr(sys.modules[module], function) is kernel


def test_kernels_of_other_dtypes_are_left_out() -> None:
    half, full = (
        {each.name for each in KernelNeeds(dtype, 64, 32, "silu").kernels()}
        for dtype in (torch.bfloat16, torch.float32)
    )
    both = {name.rpartition(":")[2] for name in half & full}
    assert both == {"_measure", "_fill", "sample_rows", "_penalize", "_first_wrong"}
