"""Calibrates the speed of a loaded engine's runner from the times of batches of known work.

Each term of the cost model is a difference between batches that differ in that term alone; one
that is negative, by noise, counts as 0. Knows no tensors.
"""

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from thothy_batch.engine.core.config import EngineConfig
from thothy_batch.engine.cost.cost_model import CostModel, Curve, ModelWork, StepSpeed
from thothy_batch.engine.cost.measurement_cache import measured_now
from thothy_batch.engine.execution.batch import Batch, Int64Array
from thothy_batch.engine.execution.dummy_batches import DummyBatches, step_work
from thothy_batch.engine.execution.launcher import Runner, SyncLauncher
from thothy_batch.engine.hardware.cpu_load import CPULoad
from thothy_batch.engine.llm_engine import LLMEngine
from thothy_batch.engine.output.stop_checker import StopChecker
from thothy_batch.records import Request, Sampling

Clock = Callable[[], float]

_CHUNKS = (1, 4, 8, 16, 32, 64, 128, 256, 512)
_CUDA_CHUNKS = (*_CHUNKS, 1024, 2048, 4096, 8192)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_NEAR = 32  # tokens of a context that is cheap to attend to
_FAR = 512
_FAR_ROWS = 8
# The part of the pool that calibration fills: enough that KV is read from memory, not caches.
_KV_BYTES = 1 << 29
_KV_TOKENS = 4096
_REPEATS = 4  # per batch, while they take less than:
_REPEATS_S = 0.5
_HOST_ROWS = 32
_HOST_TOKENS = 64
_NOTHING = StepSpeed(linears=((1, 0.0),), head=((1, 0.0),), kv_byte_s=0, pair_s=0, shared_pair_s=0)


def calibrate(
    runner: Runner,
    config: EngineConfig,
    work: ModelWork,
    *,
    budget_s: float = 20.0,
    clock: Clock = time.perf_counter,
) -> StepSpeed:
    """Measure the runner of an engine that is loaded and idle; its pool is overwritten.

    `budget_s` bounds the seconds, roughly: large models are measured at fewer points.
    """
    before = CPULoad.now() if config.device == "cpu" else None
    max_tokens = min(_KV_TOKENS, _KV_BYTES // sum(g.kv_bytes_per_token for g in work.groups))
    batches = DummyBatches(config, max(1, max_tokens))
    bench = _Bench(runner, work, clock)
    for batch in batches.fill():
        runner.run(batch)
    chunks = _CHUNKS if config.device == "cpu" else _CUDA_CHUNKS
    speed = _prompts(bench, batches, chunks, budget_s * 0.5)
    speed = _decode(bench, batches, speed, budget_s * 0.4)
    speed = _grouped(bench, batches, speed)
    step_s, row_s = _host_part(config, clock)
    load = None if before is None else before.share_of_others()
    return replace(speed, step_s=step_s, row_s=row_s, measured_at=measured_now(), load=load)


class _Bench:
    """A runner and a clock."""

    def __init__(self, runner: Runner, work: ModelWork, clock: Clock) -> None:
        self._runner = runner
        self._work = work
        self._clock = clock

    def time(self, batch: Batch) -> float:
        """Seconds of the fastest of a few repeats. The first run does not count: linears of a new
        number of rows take twice as long once, while their code is generated."""
        self._runner.run(batch)
        best, spent = float("inf"), 0.0
        for _ in range(_REPEATS):
            began = self._clock()
            self._runner.run(batch)
            seconds = self._clock() - began
            best, spent = min(best, seconds), spent + seconds
            if spent > _REPEATS_S:
                break
        return best

    def rest(self, batch: Batch, speed: StepSpeed) -> float:
        """Seconds of a batch beyond those that `speed` accounts for."""
        return self.time(batch) - self.seconds_of(speed, batch)

    def ladder(
        self, sizes: list[int], make: Callable[[int], Batch], speed: StepSpeed, budget_s: float
    ) -> Curve:
        """Seconds beyond those that `speed` accounts for, by size, as far as the budget allows."""
        points: list[tuple[float, float]] = []
        end = self._clock() + budget_s
        for size in sizes:
            began = self._clock()
            seconds = max(0.0, self.rest(make(size), speed))
            # More rows never take less time: a measurement that says so is noise.
            points.append((size, max(seconds, points[-1][1] if points else 0.0)))
            # The next size may take twice as long as this one did.
            if self._clock() + 2 * (self._clock() - began) > end:
                break
        return tuple(points)

    def seconds_of(self, speed: StepSpeed, batch: Batch) -> float:
        """Seconds of a batch by the cost model."""
        return CostModel(self._work, speed).step_s(step_work(batch))

    def slope(self, near: Batch, far: Batch, unit: StepSpeed) -> float:
        """Seconds per unit of the one term of the cost model that `far` has more of than `near`;
        `unit`: a speed of one second per unit of that term, and 0 for all others."""
        units = self.seconds_of(unit, far) - self.seconds_of(unit, near)
        return max(0.0, (self.time(far) - self.time(near)) / units) if units > 0 else 0.0


def _prompts(
    bench: _Bench, batches: DummyBatches, chunks: tuple[int, ...], budget_s: float
) -> StepSpeed:
    """Measure linears and prefill attention, with chunks of one prompt and no sampling."""
    size = min(128, batches.max_chunk, -(-batches.max_context // 4))
    far = batches.chunk(batches.max_context - size, size)
    speed = replace(
        _NOTHING, pair_s=bench.slope(batches.chunk(0, size), far, replace(_NOTHING, pair_s=1.0))
    )
    sizes = [size for size in chunks if size <= batches.max_chunk]
    linears = bench.ladder(sizes, lambda size: batches.chunk(0, size), speed, budget_s)
    return replace(speed, linears=linears)


def _decode(bench: _Bench, batches: DummyBatches, speed: StepSpeed, budget_s: float) -> StepSpeed:
    """Measure KV reads and the LM head, with decoding rows."""
    near = min(_NEAR, batches.max_context)
    rows = min(_FAR_ROWS, batches.max_rows, batches.num_tokens // near)
    far = max(near, min(_FAR, batches.max_context, batches.num_tokens // rows))
    kv_byte_s = bench.slope(
        batches.decode(rows, near),
        batches.decode(rows, far),
        replace(_NOTHING, kv_byte_s=1.0),
    )
    speed = replace(speed, kv_byte_s=kv_byte_s)
    sizes = [rows for rows in _ROWS if rows <= batches.max_rows]
    head = bench.ladder(sizes, lambda rows: batches.decode(rows, near), speed, budget_s)
    return replace(speed, head=head)


def _grouped(bench: _Bench, batches: DummyBatches, speed: StepSpeed) -> StepSpeed:
    """Measure the cost of KV that is read once for all rows of a group."""
    shared_blocks = min(_FAR, batches.max_context) // batches.block_size - 1
    if shared_blocks < 1:
        return speed  # the pool is too small for a shared block plus a private one
    rows = min(2 * _FAR_ROWS, batches.max_rows)
    if rows < 2:
        return speed
    grouped = batches.grouped_decode(rows, shared_blocks)
    seconds = bench.rest(grouped, replace(speed, shared_pair_s=0.0))
    pairs = bench.seconds_of(replace(_NOTHING, shared_pair_s=1.0), grouped)
    return replace(speed, shared_pair_s=max(0.0, seconds) / pairs)


def _host_part(config: EngineConfig, clock: Clock) -> tuple[float, float]:
    """Seconds that the engine spends around the runner for a step, and for each of its rows."""
    num_rows = min(_HOST_ROWS, config.max_seqs)
    alone, together = (_host_step(config, clock, rows) for rows in (1, num_rows))
    row_s = max(0.0, (together - alone) / (num_rows - 1)) if num_rows > 1 else 0.0
    return max(0.0, alone - row_s), row_s


def _host_step(config: EngineConfig, clock: Clock, num_rows: int) -> float:
    """Seconds of a decode step without the runner's part."""
    launcher = SyncLauncher(_Idle())
    engine = LLMEngine(config, launcher, StopChecker((), None), vocab_size=2, has_tokenizer=False)
    num_tokens = min(_HOST_TOKENS, config.max_model_len - 1, config.pool_tokens // num_rows - 1)
    if num_tokens < 1:
        return 0.0
    sampling = Sampling(max_tokens=num_tokens, ignore_eos=True, repetition_stop=False)
    engine.submit(Request(number, "", [1], sampling) for number in range(num_rows))
    began = clock()
    while engine.has_work:
        engine.step()
    return (clock() - began) / max(1, engine.totals.num_steps)


class _Idle:
    """A runner that computes nothing."""

    def run(self, batch: Batch) -> Int64Array:
        return np.ones(len(batch.logits_rows), np.int64)
