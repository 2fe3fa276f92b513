"""Measures a device's limits: F and BW of the roofline, operations and bytes a second."""

import logging
import time
from collections.abc import Callable, Sequence

import torch

from thothy_batch.engine.cost.measurement_cache import MeasurementCache, device_name, measured_now
from thothy_batch.engine.hardware.cpu_load import CPULoad, is_quiet, present_load
from thothy_batch.engine.hardware.host_memory import available_bytes
from thothy_batch.engine.protocol import OnPhase, ignore_phase
from thothy_batch.records import DeviceLimits
from thothy_kernels.linear import pack_linear
from thothy_kernels.linear_int8 import pack_linear_int8

_log = logging.getLogger(__name__)
# Weights of small and large models [N, K], and rows of a compute-bound step.
_LINEAR_SHAPES = ((1024, 1024), (4096, 1024), (1024, 3072), (4096, 4096))
_LINEAR_ROWS = 512
_READ_BYTES = 1 << 29  # far beyond caches
_MIB = 1 << 20
# Sizes of a product and a copy that take far longer than their launch.
_CUDA_ROWS = 8192
_CUDA_BYTES = 2 << 30
_CPU_FORMATS = ("float32", "bfloat16", "int8")
_CUDA_FORMATS = ("float32", "bfloat16")
_BUDGET_S = 1.0  # for each format, and for the bandwidth
# Another program may use a core for a while, and halve the rate measured meanwhile.
_MIN_REPEATS = 5


def load_or_measure_limits(
    cache: MeasurementCache,
    device: str = "cpu",
    formats: Sequence[str] = ("float32",),
    phase: OnPhase = ignore_phase,
) -> DeviceLimits | None:
    """The limits of a quiet device for these formats of products.

    Cached ones, or measured now, for a second or two, which `phase` is told. None while other
    programs keep the machine busy, and nothing was measured before: half a rate is worse than none.
    """
    known = cache.quiet_device(device_name(device), torch.get_num_threads())
    if known is not None and set(formats) <= set(known.flops):
        return known
    if device == "cpu" and not is_quiet(load := present_load()):
        _log.info("the device's limits are not measured: others use %s of its cores", load)
        return None
    phase("measuring the device, about 2 s")
    limits = measure_device(cache, device, formats=formats, known=known)
    return limits if is_quiet(limits.load) else None


def measure_device(
    cache: MeasurementCache,
    device: str = "cpu",
    *,
    formats: Sequence[str] = (),
    known: DeviceLimits | None = None,
) -> DeviceLimits:
    """Measure compute and bandwidth with all of torch's threads, and cache them.

    `formats`: those of products to measure; none: all. What `known` has is not measured again.
    Slow devices take longer than the budget, since everything is run six times.
    """
    flops, bandwidth = (_flops, _bandwidth) if device == "cpu" else (_cuda_flops, _cuda_bandwidth)
    wanted = formats or (_CPU_FORMATS if device == "cpu" else _CUDA_FORMATS)
    before = CPULoad.now() if device == "cpu" else None
    rates = {} if known is None else dict(known.flops)
    for name in dict.fromkeys(wanted):
        if name not in rates:
            rates[name] = flops(getattr(torch, name), _BUDGET_S)
    limits = DeviceLimits(
        device=device_name(device),
        threads=torch.get_num_threads(),
        flops=rates,
        bandwidth=bandwidth(_BUDGET_S) if known is None else known.bandwidth,
        measured_at=measured_now(),
        load=None if before is None else before.share_of_others(),
    )
    cache.store_device(limits)
    return limits


@torch.inference_mode()
def _flops(dtype: torch.dtype, budget_s: float) -> float:
    """Operations a second of the fastest linear, run as the decoder runs them; int8 with bfloat16
    around it."""
    best = 0.0
    pack, dtype = (
        (pack_linear_int8, torch.bfloat16) if dtype == torch.int8 else (pack_linear, dtype)
    )
    for N, K in _LINEAR_SHAPES:
        linear = pack(torch.ones((N, K), dtype=dtype), None, impl="cpu")
        x = torch.ones((_LINEAR_ROWS, K), dtype=dtype)
        seconds = _least_time(lambda: linear(x), budget_s / len(_LINEAR_SHAPES))  # noqa: B023
        best = max(best, 2 * N * K * _LINEAR_ROWS / seconds)
    return best


@torch.inference_mode()
def _bandwidth(budget_s: float) -> float:
    """Bytes a second of the fastest way to read, which differs between machines.

    Sums and products of float32 read 12 and 31 GB/s on one machine, both 53 GB/s on another.
    """
    num_bytes = max(_MIB, min(_READ_BYTES, available_bytes() // 8) // _MIB * _MIB)
    data = torch.ones(num_bytes // 4)
    one, other = data.view(2, -1)
    ways: tuple[Callable[[], object], ...] = (
        data.sum,
        data.view(torch.int64).sum,
        data.amax,
        lambda: torch.dot(one, other),
    )
    return max(num_bytes / _least_time(way, budget_s / len(ways)) for way in ways)


@torch.inference_mode()
def _cuda_flops(dtype: torch.dtype, budget_s: float) -> float:
    """Operations a second of a GPU's largest products, with random operands: bits cost power."""
    n = _CUDA_ROWS
    a = torch.randn((n, n), dtype=dtype, device="cuda")
    out = torch.empty_like(a)
    return 2 * n**3 / _least_time(lambda: _waited(torch.mm, a, a, out=out), budget_s)


@torch.inference_mode()
def _cuda_bandwidth(budget_s: float) -> float:
    """Bytes a second that a GPU reads and writes in a copy."""
    free, _ = torch.cuda.mem_get_info()
    source = torch.empty(min(_CUDA_BYTES, free // 4), dtype=torch.int8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / _least_time(lambda: _waited(target.copy_, source), budget_s)


def _waited(launch: Callable[..., object], *args: object, **kwargs: object) -> None:
    launch(*args, **kwargs)
    torch.cuda.synchronize()


def _least_time(work: Callable[[], object], budget_s: float) -> float:
    """Seconds of the fastest of at least five runs, after one to warm up."""
    work()
    best, num_repeats = float("inf"), 0
    end = time.perf_counter() + budget_s
    while True:
        began = time.perf_counter()
        work()
        now = time.perf_counter()
        best, num_repeats = min(best, now - began), num_repeats + 1
        if now >= end and num_repeats >= _MIN_REPEATS:
            return best
