"""Times a decode step of Qwen3-0.6B from its graph, by kernel, and the host's work for a launch.

`kv_ms` is the time that reading the keys and values alone takes at the measured bandwidth.
"""

import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from statistics import median

import torch
from device_place import DEVICE, IS_DRY_RUN, sizes
from torch.profiler import ProfilerActivity, profile

from first_contact import models
from first_contact.recorder import Check
from thothy_batch.engine.execution.dummy_batches import DummyBatches

# 24 steps lie between a context and the end of its last block: behind it there is no block to read.
_SHAPES = sizes([(64, 1000), (256, 1000), (1024, 616)], [(3, 40)])
_BUCKETS = sizes([64, 256, 1024], [4, 64])
_NUM_LAUNCHES, _STEPS = 5, 4
_COPIED_BYTES = sizes([4 << 30], [1 << 20])[0]
_NUM_KERNELS = 14  # of a profile
_BLOCK_BYTES = 28 * 2 * 8 * 32 * 128 * 2  # layers, keys and values, K, P, D, bfloat16


def checks() -> Iterator[Check]:
    bench = _Bench()
    yield "copy", bench.copy
    for rows, context in _SHAPES:
        yield f"decode-{rows}x{context}", partial(bench.decode, rows, context)
    if not IS_DRY_RUN:
        yield "kernels", bench.kernels


class _Timer:
    """Seconds between two marks, on the device's clock where there is one."""

    def __init__(self) -> None:
        self._events = []
        if not IS_DRY_RUN:
            self._events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
        self._host = [0.0, 0.0]

    def mark(self, which: int) -> None:
        self._host[which] = time.perf_counter()
        if self._events:
            self._events[which].record()

    def seconds(self) -> float:
        if not self._events:
            return self._host[1] - self._host[0]
        torch.cuda.synchronize()
        return float(self._events[0].elapsed_time(self._events[1])) / 1e3


class _Bench:
    def __init__(self) -> None:
        self._bytes_per_s = 0.0
        self._engine = models.load(num_blocks=_num_blocks(), max_seqs=sizes([1024], [64])[0])
        self._runner = self._engine.runner(_BUCKETS)
        if not IS_DRY_RUN:
            self._runner.capture()
        config = self._engine.config
        self._batches = DummyBatches(config, config.pool_tokens)

    def copy(self) -> dict[str, float]:
        source = torch.zeros(_COPIED_BYTES, dtype=torch.int8, device=DEVICE)
        target = torch.empty_like(source)
        seconds = []
        for _ in range(5):
            timer = _Timer()
            timer.mark(0)
            target.copy_(source)
            timer.mark(1)
            seconds.append(timer.seconds())
        self._bytes_per_s = 2 * _COPIED_BYTES / median(seconds)
        return {"copy_tb_per_s": round(self._bytes_per_s / 1e12, 3)}

    def decode(self, rows: int, context: int) -> dict[str, float]:
        batch = self._batches.decode(rows, context)
        batch.limits = batch.limits + 1000
        self._runner.begin(batch)
        self._runner.launch(_STEPS).tokens()
        timer = _Timer()
        began = time.perf_counter()
        timer.mark(0)
        reads = [self._runner.launch(_STEPS) for _ in range(_NUM_LAUNCHES)]
        host_s = (time.perf_counter() - began) / _NUM_LAUNCHES
        timer.mark(1)
        for read in reads:
            read.tokens()
        step_s = timer.seconds() / (_NUM_LAUNCHES * _STEPS)
        began = time.perf_counter()
        self._runner.begin(batch)
        fill_s = time.perf_counter() - began
        figures = {"step_ms": step_s, "host_ms_per_launch": host_s, "fill_ms": fill_s}
        if self._bytes_per_s:
            figures["kv_ms"] = rows * context * self._engine.kv_bytes / self._bytes_per_s
        return {name: round(seconds * 1e3, 3) for name, seconds in figures.items()}

    def kernels(self) -> dict[str, str]:
        """One step of the last decode, by kernel: milliseconds and launches."""
        with profile(activities=[ProfilerActivity.CUDA]) as profiled:
            self._runner.launch(1).tokens()
            torch.cuda.synchronize()
        milliseconds: Counter[str] = Counter()
        counts: Counter[str] = Counter()
        for event in profiled.events():
            if "CUDA" in str(event.device_type):
                milliseconds[event.name[:70]] += event.time_range.elapsed_us() / 1e3
                counts[event.name[:70]] += 1
        assert milliseconds, "the profiler saw no kernel"
        longest = milliseconds.most_common(_NUM_KERNELS)
        return {name: f"{ms:.3f} ms, {counts[name]} launches" for name, ms in longest}


def _num_blocks() -> int:
    """Enough for every shape, and at most half of the free memory."""
    if IS_DRY_RUN:
        return 60
    return min(25_000, torch.cuda.mem_get_info()[0] // 2 // _BLOCK_BYTES)
